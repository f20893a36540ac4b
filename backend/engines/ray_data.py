"""Scoring on a Ray cluster: Ray Data carries the shards to a pool of actors that own the models.

An actor that dies, with its node or alone, is started again where there is room, and Ray Data
repeats the shard in its hands.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backend.engines.shards import SHARD_TASKS, Outcome, Shard, Sharded, ShardScorer
from backend.errors import EngineError
from backend.label_studio.records import TaskRef
from backend.scoring.scorer import Scorer, ScoringReport
from backend.settings import Settings

# An image that crashes each actor would otherwise be tried for ever.
_RESTARTS = 3
# Shards are lists of addresses: Ray's default of a third of the memory would be reserved for
# nothing.
_OBJECT_STORE_BYTES = 128 * 1024**2


class RayData:
    """An engine: see `Engine`. One actor for each GPU, or each machine where there is none.

    Args:
        settings: how machines reach Label Studio and the database, and where models are. They
            travel as an argument of the actors, whose text hides what is secret.
        shard_tasks: tasks in a shard, at most.

    Raises:
        EngineError: Ray is not installed, or the machines of a cluster would share no database.
    """

    def __init__(self, settings: Settings, *, shard_tasks: int = SHARD_TASKS) -> None:
        # Read when Ray is first imported: it reports to nobody.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        log_records = logging.getLogRecordFactory()
        try:
            import ray.data  # noqa: F401  # optional and slow to import
        except ImportError:
            raise EngineError(
                "Ray is not installed: `pip install 'ray[data]>=2.50,<2.64'` on every machine, or "
                "score without --engine ray"
            ) from None
        finally:
            # Ray's adds a field that every line would show.
            logging.setLogRecordFactory(log_records)
        database = settings.database_url.get_secret_value()
        if settings.ray_address and not database.startswith("postgresql"):
            raise EngineError(
                "The machines of RAY_ADDRESS need one database: set DATABASE_URL to a PostgreSQL "
                "that all of them reach. SQLite is a file of this machine"
            )
        # An actor has another working folder.
        self._settings = settings.model_copy(
            update={
                "data_dir": settings.data_dir.absolute(),
                "model_dir": settings.model_dir.absolute(),
            }
        )
        self._sharded = Sharded(self._carry, shard_tasks)

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
        """See `Engine`."""
        return self._sharded(
            scorer, project_id, tasks, label_config=label_config, on_progress=on_progress
        )

    def _carry(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        import ray
        import ray.data
        import ray.exceptions

        with _connected(self._settings.ray_address):
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            outcomes = self._scored(shards)
            try:
                for row in outcomes.iter_rows():
                    yield pickle.loads(row["outcome"])
            except ray.exceptions.RayError as error:
                raise EngineError(
                    f"Ray gave up ({type(error).__name__}): see its logs in /tmp/ray on the head; "
                    "what was scored is stored, so run the same command again"
                ) from error

    def _scored(self, shards: Sequence[Shard]) -> Any:
        """A data set of pickled outcomes, made as it is read."""
        import ray.data
        from ray.util.annotations import RayDeprecationWarning

        rows = [{"shard": pickle.dumps(shard)} for shard in shards]
        pool, resources = _pool(self._settings.device, len(shards))
        with warnings.catch_warnings():
            # Restarts have no name of their own among the arguments.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                batch_size=None,
                compute=pool,
                fn_constructor_kwargs={"settings": self._settings},
                max_restarts=_RESTARTS,
                # As long as there are restarts: one that takes a while costs many retries.
                max_task_retries=-1,
                **resources,
            )


class _Actor:
    """A process of the cluster that keeps models loaded."""

    def __init__(self, settings: Settings) -> None:
        self._scorer = ShardScorer(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [self._scorer.score(pickle.loads(shard)) for shard in batch["shard"]]
        return {"outcome": np.array([pickle.dumps(outcome) for outcome in outcomes], dtype=object)}


def _pool(device: str, shards: int) -> tuple[Any, dict[str, float]]:
    """The pool of actors, and what each takes up.

    On CPUs an actor uses all cores of its machine. It claims only one, so that machines that are
    left have room for the actors of one that died.
    """
    import ray
    from ray.data import ActorPoolStrategy

    gpus = 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    hosts = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1)
    pool = ActorPoolStrategy(
        size=max(1, min(gpus or hosts, shards)), max_tasks_in_flight_per_actor=1
    )
    return pool, {"num_gpus": 1} if gpus else {"num_cpus": 1}


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Ray, on the cluster or on this machine; left as it was found."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or "on this machine"
        raise EngineError(
            f"Ray cannot be reached or started ({where}: {type(error).__name__}): start it with "
            "`ray start --head`, and correct RAY_ADDRESS"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
