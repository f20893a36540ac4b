"""How much of an order is sent to Label Studio: all of it, or its queue."""

from __future__ import annotations

from collections.abc import Sequence

from backend.settings import Settings
from backend.store.scores import RankRow

# Label Studio takes some 1.5 ms to import a prediction and 5 ms to remove it.
ALL_BELOW = 20_000


def cut_to_extent(
    rows: Sequence[RankRow], settings: Settings, *, pinned: int
) -> tuple[list[RankRow], str]:
    """The places that PUBLISH sends, and one line where `auto` leaves some out, else "".

    Args:
        rows: the order, first place first.
        settings: PUBLISH and QUEUE_LIMIT.
        pinned: how many places are pinned; these are always sent.
    """
    limit = max(settings.queue_limit, pinned)
    too_many = settings.publish == "auto" and len(rows) >= ALL_BELOW
    if settings.publish == "all" or not (too_many or settings.publish == "queue"):
        return list(rows), ""
    note = (
        f"PUBLISH=auto: of {len(rows):,} tasks the first {limit:,} are published, because "
        f"{ALL_BELOW:,} or more take Label Studio minutes; PUBLISH=all publishes all"
    )
    return list(rows[:limit]), note if too_many and len(rows) > limit else ""
