"""What is due for a project, decided from its current state and not from events.

So an event that comes twice, late, in the wrong order or never changes nothing but the moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.settings import Settings

# A publish that failed is tried again after a minute, then two, four and so on, up to an hour.
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)


@dataclass(frozen=True)
class Situation:
    """What is known of a project.

    Args:
        answered: answered tasks.
        answered_when_trained: how many there were at the last training.
        trains: a training waits or runs.
        open_ranks: unlabelled tasks of the published order.
        ranked: tasks of the published order when it was published.
        unlabelled: unlabelled tasks of the project.
        new_tasks: tasks that came after the order was made.
        order_is_stale: the order is of another model than the one that serves, of another label
            config, or Label Studio has lost it.
        publishes: an order waits to be made, or is being made.
        failures: publishes that failed since the last one that did not, and when the last did.
    """

    answered: int = 0
    answered_when_trained: int = 0
    trains: bool = False
    open_ranks: int = 0
    ranked: int = 0
    unlabelled: int = 0
    new_tasks: int = 0
    order_is_stale: bool = False
    publishes: bool = False
    failures: tuple[int, datetime | None] = (0, None)


def training_is_due(now: Situation, settings: Settings) -> bool:
    """Whether enough answers came since the last training, however that one ended."""
    new = now.answered - now.answered_when_trained
    return not now.trains and 0 < settings.train_after <= new


def publish_is_due(now: Situation, moment: datetime) -> bool:
    """Whether a new order is needed, and the last failure is long enough ago."""
    if not now.unlabelled or now.publishes:
        return False
    wanted = now.order_is_stale or now.new_tasks > 0 or _runs_dry(now)
    return wanted and not _pauses(now.failures, moment)


def _runs_dry(now: Situation) -> bool:
    """Whether a fifth of the order or less is open while more tasks wait.

    Label Studio serves at random when an order is used up.
    """
    if now.open_ranks in (now.ranked, now.unlabelled):
        return False
    return now.open_ranks <= max(5, now.ranked // 5)


def _pauses(failures: tuple[int, datetime | None], moment: datetime) -> bool:
    count, last = failures
    if not count or last is None:
        return False
    pause: timedelta = min(_FIRST_PAUSE * 2 ** min(count - 1, 10), _LONGEST_PAUSE)
    return moment < last + pause
