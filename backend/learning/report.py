"""The rounds of a project as rows: what each gained, what pre-annotation saved, when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backend.label_studio.client import Studio
from backend.label_studio.regions import find_control
from backend.learning.edit_stats import Savings, total_savings
from backend.learning.stopping import FEWEST_SHOWN, Advice, advise
from backend.settings import Settings
from backend.store.annotations import AnnotationStore
from backend.store.rounds import BASE, RoundRow, RoundStore
from backend.store.scores import Store
from backend.training.quality import Quality


@dataclass(frozen=True)
class RoundsReport:
    """The progress of a project so far.

    Args:
        project_id: the project.
        serving: the version that serves now.
        rounds: the evaluated rounds, first one first.
        savings: what annotators did to the boxes shown, for each round since the one before.
        since: the same since the last round.
        advice: whether to keep labelling.
    """

    project_id: int
    serving: str
    rounds: tuple[RoundRow, ...]
    savings: tuple[Savings, ...]
    since: Savings
    advice: Advice

    def as_json(self) -> dict[str, Any]:
        """The report in plain types."""
        return {
            "project_id": self.project_id,
            "serving": self.serving,
            "rounds": [
                {
                    "round": row.round,
                    "version": row.version,
                    "labels": row.labels,
                    "boxes": row.boxes,
                    "judged_on": row.judged_on,
                    **{name: row.judgement.get(name) for name in ("new", "serving")},
                    **{name: row.judgement.get(name) for name in ("difference", "agreement")},
                    "promoted": row.promoted,
                    "reason": row.reason,
                    "minutes": round(row.seconds / 60, 2),
                    "savings": savings.as_json(),
                    "created_at": row.created_at.isoformat(),
                }
                for row, savings in zip(self.rounds, self.savings, strict=True)
            ],
            "since_last_round": self.since.as_json(),
            "advice": self.advice.as_json(),
        }


def quality_of(row: RoundRow) -> Quality | None:
    """The quality of a round's model; None: it could not be evaluated."""
    found = row.judgement.get("new")
    return Quality.from_json(found) if found else None


def report_rounds(
    settings: Settings, studio: Studio, store: Store, project_id: int
) -> RoundsReport:
    """Read the rounds of a project.

    Raises:
        LabelStudioError: the project cannot be read.
    """
    rounds = RoundStore(store).rounds(project_id)
    totals = [Savings.from_json(row.judgement.get("savings") or {}) for row in rounds]
    own = [after - before for before, after in zip([Savings(), *totals], totals, strict=False)]
    since = _total(studio, store, project_id) - (totals[-1] if totals else Savings())
    looked_at = since if since.shown >= FEWEST_SHOWN or not own else own[-1]
    serving = RoundStore(store).serving(project_id)
    return RoundsReport(
        project_id=project_id,
        serving=serving.version if serving else BASE,
        rounds=tuple(rounds),
        savings=tuple(own),
        since=since,
        advice=advise(
            rounds,
            target_map50=settings.target_map50,
            accepted=(looked_at.edits.accepted, looked_at.shown),
        ),
    )


def _total(studio: Studio, store: Store, project_id: int) -> Savings:
    classes: Sequence[str] = ()
    live = store.publication(project_id)
    if live is not None:
        classes = store.class_names(live.detector) or ()
    control = find_control(studio.project(project_id).label_config, classes)
    return total_savings(AnnotationStore(store), project_id, control)
