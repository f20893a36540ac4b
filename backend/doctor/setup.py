"""What is wrong with a set-up, from the store and the models to Label Studio."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from statistics import median

from backend.doctor.findings import ORDER, Finding, failed, ok, warn
from backend.doctor.label_studio import diagnose
from backend.doctor.serving import BY_THE_TAB
from backend.errors import StoreError, WeightsError
from backend.label_studio.records import ProjectInfo
from backend.scoring.model_files import ModelFiles
from backend.scoring.serving_model import model_that_serves, notes_on_model
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.rounds import RoundStore
from backend.store.scores import Store
from backend.store.sent_versions import SentVersions

_FEWEST_ANSWERS = 5
_LOOKED_AT = 20
# Besides one image a colleague: those that were opened and left.
_LEFT_OPEN = 3


def examine_setup(settings: Settings, project_id: int | None) -> list[Finding]:
    """What is wrong with the store, the weights and Label Studio, and what to do about it.

    Ends with the first thing without which nothing works: what comes after would only repeat it.
    """
    try:
        store = Store.from_settings(settings)
    except StoreError as error:
        return [failed("store", error)]
    try:
        findings = [ok("store", "the store can be read and written")]
        findings += _examine_worker(settings, store, project_id)
        for note in notes_on_model(settings, store):
            message, _, remedy = note.partition(": ")
            findings.append(warn("MODEL", message, remedy))
        try:
            found, class_names = _examine_models(settings, store, project_id)
        except WeightsError as error:
            return [*findings, failed("models", error)]
        return [
            *findings,
            *found,
            *diagnose(
                settings,
                project_id,
                class_names=class_names,
                order_probe=partial(_examine_order, store),
            ),
        ]
    finally:
        store.close()


def _examine_order(store: Store, project: ProjectInfo) -> list[Finding]:
    """What the store knows of the order that is live; nothing: all is well."""
    stranger = SentVersions(store, project.id).stranger(project.model_version)
    if stranger:
        message, _, remedy = stranger.partition(": ")
        return [warn(ORDER, message, remedy)]
    live = store.publication(project.id, project.model_version)
    if live is None:
        return []
    ranks = {row.task_id: row.rank for row in store.ranks(live.model_version)}
    answers = AnnotationStore(store)
    # What was skipped before is ranked again, and was not passed over.
    since = answers.in_order_of_answering(project.id, live.created_at)
    answered = [task for task in since if task in ranks]
    passed = passed_over(ranks, answered)[-_LOOKED_AT:]
    others = len(answers.annotators(project.id)) - 1
    if len(passed) < _FEWEST_ANSWERS or median(passed) <= others + _LEFT_OPEN:
        return []
    message = (
        f"The last {len(passed)} annotations did not come in the published order: half of them "
        f"passed over {median(passed):.0f} images or more. Label Studio draws at random where a "
        "project has several members, which Enterprise makes, or a database that came from it"
    )
    return [warn(ORDER, message, BY_THE_TAB)]


def passed_over(ranks: Mapping[int, int], answered: Sequence[int]) -> list[int]:
    """How many unanswered tasks with a better rank each answer passed over.

    Args:
        ranks: task id -> its rank, for every task of an order.
        answered: ids of such tasks, in the order in which they were answered.

    >>> passed_over({7: 1, 8: 2, 9: 3}, [8, 7, 9])
    [1, 0, 0]
    """
    still_open = sorted(ranks.values())
    found = []
    for task_id in answered:
        place = bisect_left(still_open, ranks[task_id])
        found.append(place)
        del still_open[place]
    return found


def _examine_models(
    settings: Settings, store: Store, project_id: int | None
) -> tuple[list[Finding], tuple[str, ...]]:
    """What MODEL names and which model serves the project, and the classes of the one that serves.

    Raises:
        WeightsError: weights are not there, changed or cannot be loaded.
    """
    from backend.vision.models import load_models

    models = load_models(settings)
    class_names = models.detector.class_names
    names = f"{settings.model} ({len(class_names)} classes), {models.encoder.name}"
    findings = [ok("models", names)]
    if project_id is None:
        return findings, class_names
    serving = RoundStore(store).serving(project_id)
    if serving is not None:
        files = ModelFiles(settings.trained_dir, project_id)
        path = files.find(serving.version, serving.content_hash)
        kept = store.class_names(serving.detector)
        class_names = kept or models.with_detector(path, settings).detector.class_names
    serves = model_that_serves(settings, store, project_id)
    findings.append(ok("serving", f"project {project_id} is served by {serves}"))
    return findings, class_names


def _examine_worker(settings: Settings, store: Store, project_id: int | None) -> list[Finding]:
    """Whether a worker looks after the project; nothing is said of one it need not look after."""
    patience = timedelta(seconds=3 * settings.poll_seconds)
    late = AnnotationStore(store).due(datetime.now(timezone.utc) - patience)
    if project_id is None or project_id not in late:
        return []
    return [
        warn(
            "worker",
            f"no worker has polled project {project_id} in the last {patience.seconds} s: its "
            "annotations train no model",
            "start `python -m backend worker`, or see `python -m backend jobs`",
        )
    ]
