"""The names of published orders and of queues: telling ours from others', and old from current."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

PREFIX = "hf-"

QUEUE_PREFIX = "queue-"

# What `/setup` answers before anything was published.
UNPUBLISHED = "hf-unpublished"

# Label Studio refuses an annotation whose `parent_prediction` is gone, so a user who opened a task
# before its order was deleted cannot submit it. A replaced order therefore stays this long.
GRACE = timedelta(hours=1)

# What another installation has sent, and may be about to switch to, stays this long.
ABANDONED = timedelta(days=1)

_clock = threading.Lock()
_last = datetime.min.replace(tzinfo=timezone.utc)


def fresh_version(detector_version: str = "") -> str:
    """A version name never used before: `hf-20261122-101500-123-1a2b-DETECTOR`.

    Names sort by the moment they were made (UTC); those of one process never share a millisecond,
    and the random part keeps those of two processes apart. Of `detector_version` the first 8
    letters and digits are kept.
    """
    moment = _own_millisecond()
    stamp = f"{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03d}"
    detector = re.sub(r"[^0-9A-Za-z]", "", detector_version)[:8]
    return "-".join(part for part in (f"{PREFIX}{stamp}", secrets.token_hex(2), detector) if part)


def fresh_queue_version(owner: str) -> str:
    """A version never used before for a reviewer's queue: `queue-20261122-101500-123-1a2b OWNER`.

    None of them is part of another one, which a tab's filter would take for it.
    """
    return f"{QUEUE_PREFIX}{fresh_version().removeprefix(PREFIX)} {owner}"


def queue_owner(version: str) -> str | None:
    """Whose queue a version is; None: it is not one of a queue."""
    stamp, _, owner = version.removeprefix(QUEUE_PREFIX).partition(" ")
    is_one = version.startswith(QUEUE_PREFIX) and is_ours(PREFIX + stamp)
    return owner if is_one else None


def stale_queue_versions(
    versions: Collection[str], *, shown: Collection[str], now: datetime
) -> list[str]:
    """Which versions are of queues that no tab shows, and `ABANDONED` by Label Studio's clock."""
    stale = []
    for version in versions:
        made = made_at(version.replace(QUEUE_PREFIX, PREFIX, 1))
        if queue_owner(version) is None or made is None or version in shown:
            continue
        if now - made >= ABANDONED:
            stale.append(version)
    return stale


def _own_millisecond() -> datetime:
    """Now, or one millisecond after the last answer if that is later."""
    global _last
    with _clock:
        _last = max(datetime.now(timezone.utc), _last + timedelta(milliseconds=1))
        return _last


def is_ours(version: str) -> bool:
    """Whether `version` came from `fresh_version`: only those are ever deleted."""
    return made_at(version) is not None


def made_at(version: str) -> datetime | None:
    """When a version of ours was made, read from its name; None: the name does not tell."""
    found = re.match(rf"{PREFIX}(\d{{8}}-\d{{6}})-(\d{{3}})", version)
    if found is None:
        return None
    try:
        moment = datetime.strptime(found[1], "%Y%m%d-%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return moment + timedelta(milliseconds=int(found[2]))


@dataclass(frozen=True)
class VersionNotes:
    """What one installation knows of a project's versions. All times are Label Studio's.

    Args:
        broke_off: versions that it began to send and never switched to.
        replaced: its own versions -> when at the latest annotators ceased to be served by them.
        live: its own version that is served now; "" for none.
        stranger_seen: when it last met a served version that it had not sent; None: never.
    """

    broke_off: Collection[str] = ()
    replaced: Mapping[str, datetime] = field(default_factory=dict)
    live: str = ""
    stranger_seen: datetime | None = None


def stale_versions(versions: Sequence[str], notes: VersionNotes, *, now: datetime) -> list[str]:
    """Which of `versions` can be deleted; the caller still has to spare the one that is served.

    Never a version that is not ours. What this installation never switched to goes at once, what
    it replaced goes after `GRACE`. What another one sent may be in use there: it goes when it is
    `ABANDONED` old and nobody else's order was served here for as long.

    Args:
        versions: those that have predictions in Label Studio.
        notes: what this installation knows.
        now: by Label Studio's clock.
    """

    def is_stale(version: str) -> bool:
        if version == notes.live:
            return False
        if version in notes.broke_off:
            return True
        if version in notes.replaced:
            return now - notes.replaced[version] >= GRACE
        made, seen = made_at(version), notes.stranger_seen
        is_old = made is not None and now - made >= ABANDONED
        return is_old and (seen is None or now - seen >= ABANDONED)

    return [version for version in sorted(versions) if is_ours(version) and is_stale(version)]
