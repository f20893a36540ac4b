"""Which model serves a project, in words for people; and whether all processes mean the same."""

from __future__ import annotations

import json
from typing import Literal

from backend.errors import WeightsError
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.rounds import BASE, RoundStore
from backend.store.scores import Store

Process = Literal["worker", "server"]
_KEPT: dict[Process, str] = {"worker": "MODEL of the worker", "server": "MODEL of the server"}


def model_that_serves(settings: Settings, store: Store, project_id: int) -> str:
    """As in "r2-12fb64f76626" or "base (MODEL=yolo11n.pt)"."""
    serving = RoundStore(store).serving(project_id)
    return f"{BASE} (MODEL={settings.model})" if serving is None else serving.version


def model_behind(store: Store, project_id: int, detector: str) -> str:
    """The version whose scores these are: of a round, or `BASE`."""
    rounds = RoundStore(store).rounds(project_id)
    return next((row.version for row in rounds if row.detector == detector), BASE)


def keep_model_of(process: Process, settings: Settings, store: Store) -> None:
    """Keep which weights this process begins with, for `notes_on_model`."""
    AnnotationStore(store).keep(_KEPT[process], json.dumps(_identity(settings)))


def notes_on_model(settings: Settings, store: Store) -> list[str]:
    """What to know of MODEL: that the worker, or `serve`, began last with other weights."""
    answers, ours = AnnotationStore(store), _identity(settings)
    notes = []
    for process, name in _KEPT.items():
        found = answers.find(name)
        theirs = ours if found is None else tuple(json.loads(found))
        if not _is_same(theirs, ours):
            other = "with other weights " if theirs[0] == ours[0] else ""
            notes.append(
                f"the {process} was last started with MODEL={theirs[0]}, and this command {other}"
                f"with MODEL={ours[0]}: set the same MODEL for both, and start the {process} again "
                "where it was the wrong one"
            )
    return notes


def _is_same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether both are the same weights: by their hashes, or by MODEL where one has none."""
    (model, digest), (other_model, other_digest) = one, other
    return digest == other_digest if digest and other_digest else model == other_model


def _identity(settings: Settings) -> tuple[str, str]:
    """MODEL and the hash of its content; "" where it is not there yet. Fetches nothing."""
    from backend.vision.weights import content_hash, inside

    try:
        path = inside(settings.model, settings.model_dir, setting="MODEL")
        return settings.model, content_hash(path) if path.exists() else ""
    except WeightsError:  # the job that needs it says so
        return settings.model, ""
