"""Auto-label: boxes for every unlabelled task that has none yet, with no order changed.

The boxes are added to the version that annotators are shown, after all ranked tasks. Where no
version of ours is shown, they get a new one, and the sampling of the project stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from backend.errors import OrderError
from backend.label_studio.client import Studio
from backend.label_studio.importing import import_rows
from backend.label_studio.label_map import LabelMap
from backend.label_studio.records import ProjectInfo
from backend.label_studio.results import to_results
from backend.label_studio.versions import is_ours
from backend.publishing.attempt import Attempt
from backend.publishing.live_queue import adopt_published
from backend.publishing.send import new_publication
from backend.scoring.models import Scorers
from backend.scoring.scorer import Scorer
from backend.settings import Settings
from backend.store.scores import Publication, Store

# Ranks score below 1 (`publish.rank_score`), so these tasks come after all of them.
_BEHIND_ALL = 1.0


@dataclass(frozen=True)
class Prelabelled:
    """What auto-label did, in tasks.

    Args:
        prelabelled: pre-annotated now (without boxes where the model sees nothing).
        had_one: had a prediction of the shown version before.
        skipped: their image could not be read.
        model_version: the version the boxes are in; "" when there was nothing to do.
    """

    prelabelled: int
    had_one: int
    skipped: int
    model_version: str


def prelabel(
    settings: Settings,
    studio: Studio,
    store: Store,
    scorers: Scorers,
    project_id: int,
    attempt: Attempt,
) -> Prelabelled:
    """Pre-annotate a project.

    Args:
        settings: the threshold from which boxes are shown.
        studio: where tasks come from and boxes go to.
        store: what is kept.
        scorers: the models.
        project_id: the project.
        attempt: the version that an earlier one began is continued.

    Raises:
        OrderError: annotators are shown another model's predictions, or what they are
            shown was switched meanwhile.
        LabelStudioError: Label Studio does not answer, or refuses.
    """
    project = studio.project(project_id)
    adopt_published(store, project)
    version = _shown_version(studio, project) or attempt.sent_before
    there = studio.predictions_of(project_id, version) if version else []
    had_one = {prediction.task_id for prediction in there}
    unlabelled = [task for task in studio.tasks(project_id) if not task.is_labeled]
    todo = [task for task in unlabelled if task.id not in had_one]
    with scorers.lent(project_id) as scorer:
        label_map = LabelMap.build(project.label_config, scorer.class_names)
        report = scorer.score(
            project_id,
            todo,
            label_config=project.label_config,
            embed=False,
            on_progress=partial(attempt.on_progress, "scoring"),
        )
    scored = store.scored_tasks(project_id, scorer.detector_version, [task.id for task in todo])
    if scored:
        if not version:
            shown = _shown(settings, project_id, scorer)
            version = shown.model_version
            store.save_publication(shown, [])
            attempt.on_version(version)
        rows = [
            {
                "task": task_id,
                "result": to_results(
                    found.detections,
                    scorer.class_names,
                    label_map,
                    threshold=settings.model_score_threshold,
                ),
                "score": _BEHIND_ALL,
                "model_version": version,
            }
            for task_id, found in scored.items()
        ]
        publishing = partial(attempt.on_progress, "publishing")
        import_rows(studio, project_id, rows, version, publishing, there=len(there))
    if version and project.model_version != version:
        attempt.hold()
        _check_unchanged(studio, project)
        studio.set_order(project_id, version, sampling=project.sampling)
    return Prelabelled(
        prelabelled=len(scored),
        had_one=len(unlabelled) - len(todo),
        skipped=len(report.skipped),
        model_version=version,
    )


def _shown(settings: Settings, project_id: int, scorer: Scorer) -> Publication:
    """What is kept of a version without an order, so that it is known for this store's own."""
    made = new_publication(
        project_id,
        detector=scorer.detector_version,
        encoder=scorer.encoder_name,
        strategy=settings.strategy,
        settings=settings,
    )
    return replace(made, state="shown")


def _check_unchanged(studio: Studio, project: ProjectInfo) -> None:
    """Refuse to replace what was published while boxes were drawn."""
    now = studio.project(project.id).model_version
    if now != project.model_version:
        raise OrderError(
            f"Project {project.id} was switched to {now!r} while boxes were drawn: that is left as "
            f"it is; run `python -m backend auto-label {project.id}` again"
        )


def _shown_version(studio: Studio, project: ProjectInfo) -> str:
    """The version of ours that annotators are shown; "" for none.

    Raises:
        OrderError: it is another model's.
    """
    shown = project.model_version
    if is_ours(shown):
        return shown
    if shown and shown not in {backend.title for backend in studio.backends(project.id)}:
        raise OrderError(
            f"Project {project.id} shows the predictions {shown!r}, which are not of this backend: "
            "choose none in its settings under Annotation, or make an order with "
            f"`python -m backend score {project.id}`"
        )
    return ""
