"""Scoring in shards: tasks go out in parts, each is scored where it arrives, reports come back.

An engine for other machines is a function that carries shards to `ShardScorer.score` there and
outcomes back. Results do not travel: each machine writes into the database that all share. Rows
are keyed by (project, task, detector), so a shard that is carried twice changes nothing, and what
its first carrier stored is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from backend.errors import EngineError, HardestFirstError
from backend.label_studio.label_map import data_field
from backend.label_studio.records import TaskRef
from backend.scoring.models import Scorers
from backend.scoring.scorer import Scorer, ScoringReport
from backend.settings import Settings
from backend.store.scores import Store

# Four batches of the store: large enough to keep models busy, small enough to show progress.
SHARD_TASKS = 64


@dataclass(frozen=True)
class Shard:
    """Some tasks of a project, and the models they are to be scored with.

    Args:
        project_id: the project.
        label_config: names the image in a task's data.
        detector: version of the detector.
        encoder: name of the encoder.
        images: task id -> the URI of its image.
    """

    project_id: int
    label_config: str
    detector: str
    encoder: str
    images: dict[int, str]


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Args:
        tasks: how many it had.
        skipped: task id -> why it was not scored.
        error: one line on what kept the whole shard from being scored; "" for nothing.
    """

    tasks: int
    skipped: dict[int, str] = field(default_factory=dict)
    error: str = ""


Carry = Callable[[Sequence[Shard]], Iterable[Outcome]]
"""Has each shard scored somewhere, and yields the outcomes in any order as they come."""


@dataclass(frozen=True)
class Sharded:
    """An engine that scores on other machines.

    Args:
        carry: has shards scored.
        shard_tasks: tasks in a shard, at most.
    """

    carry: Carry
    shard_tasks: int = SHARD_TASKS

    def __call__(
        self,
        scorer: Scorer,
        project_id: int,
        tasks: Sequence[TaskRef],
        /,
        *,
        label_config: str,
        on_progress: Callable[[int, int], None],
    ) -> ScoringReport:
        """See `Engine`. The first shard that fails as a whole ends the run."""
        todo, report = scorer.left_to_score(project_id, tasks, label_config=label_config)
        done = len(tasks) - len(todo)
        on_progress(done, len(tasks))
        if not todo:
            return report
        name = data_field(label_config)
        shards = [
            Shard(
                project_id,
                label_config,
                scorer.detector_version,
                scorer.encoder_name,
                {task.id: task.data[name] for task in todo[first : first + self.shard_tasks]},
            )
            for first in range(0, len(todo), self.shard_tasks)
        ]
        for outcome in self.carry(shards):
            if outcome.error:
                raise EngineError(f"A machine could not score: {outcome.error}")
            report.scored += outcome.tasks - len(outcome.skipped)
            report.skipped |= outcome.skipped
            done += outcome.tasks
            on_progress(done, len(tasks))
        return report


class ShardScorer:
    """Scores shards on the machine where it is made. Models are loaded at the first one.

    Args:
        settings: how this machine reaches Label Studio and the database, and where models are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[Store, Scorers] | None = None

    def close(self) -> None:
        """Close the connections; the next shard opens them again."""
        if self._opened is not None:
            store, scorers = self._opened
            scorers.close()
            store.close()
        self._opened = None

    def score(self, shard: Shard) -> Outcome:
        """Score a shard into the database; an error of this project becomes the outcome's."""
        try:
            return self._score(shard)
        except HardestFirstError as error:
            return Outcome(len(shard.images), error=str(error))

    def _score(self, shard: Shard) -> Outcome:
        if self._opened is None:
            store = Store.from_settings(self._settings)
            self._opened = store, Scorers(self._settings, store)
        scorers = self._opened[1]
        name = data_field(shard.label_config)
        tasks = [TaskRef(id=task, data={name: uri}) for task, uri in shard.images.items()]
        with scorers.lent(shard.project_id) as scorer:
            _check_models(scorer, shard)
            report = scorer.score(shard.project_id, tasks, label_config=shard.label_config)
        return Outcome(len(tasks), report.skipped)


def _check_models(scorer: Scorer, shard: Shard) -> None:
    here = (scorer.detector_version, scorer.encoder_name)
    if here != (shard.detector, shard.encoder):
        raise EngineError(
            f"it has the detector {here[0]} and the encoder {here[1]}, where {shard.detector} and "
            f"{shard.encoder} are asked for: give all machines the same versions, MODEL, MODEL_DIR "
            "and DATA_DIR"
        )
