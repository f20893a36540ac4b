"""Which model serves a project, in words for people; and whether all processes mean the same."""

from __future__ import annotations

import json

from backend.errors import WeightsError
from backend.loop.answer_store import AnswerStore
from backend.loop.round_store import BASE, RoundStore
from backend.loop.store import Store
from backend.settings import Settings

_KEPT = "MODEL of the worker"


def model_that_serves(settings: Settings, store: Store, project_id: int) -> str:
    """As in "r2-12fb64f76626" or "base (MODEL=yolo11n.pt)"."""
    serving = RoundStore(store).serving(project_id)
    return f"{BASE} (MODEL={settings.model})" if serving is None else serving.version


def model_behind(store: Store, project_id: int, detector: str) -> str:
    """The version whose scores these are: of a round, or `BASE`."""
    rounds = RoundStore(store).rounds(project_id)
    return next((row.version for row in rounds if row.detector == detector), BASE)


def keep_worker_model(settings: Settings, store: Store) -> None:
    """Keep which weights this worker begins with, for `notes_on_model`."""
    AnswerStore(store).keep(_KEPT, json.dumps(_identity(settings)))


def notes_on_model(settings: Settings, store: Store) -> list[str]:
    """What to know of MODEL: that the worker which began last has other weights under it."""
    found = AnswerStore(store).find(_KEPT)
    if found is None:
        return []
    (theirs, their_hash), (ours, our_hash) = json.loads(found), _identity(settings)
    same = their_hash == our_hash if their_hash and our_hash else theirs == ours
    if same:
        return []
    other = "with other weights " if theirs == ours else ""
    return [
        f"the worker runs with MODEL={theirs} and this command {other}with MODEL={ours}: set the "
        "same MODEL for both, and start the worker again where it was the wrong one"
    ]


def _identity(settings: Settings) -> tuple[str, str]:
    """MODEL and the hash of its content; "" where it is not there yet. Fetches nothing."""
    from backend.vision.weights import content_hash, inside

    try:
        path = inside(settings.model, settings.model_dir, setting="MODEL")
        return settings.model, content_hash(path) if path.exists() else ""
    except WeightsError:  # the job that needs it says so
        return settings.model, ""
