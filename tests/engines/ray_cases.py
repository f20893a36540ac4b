"""Scoring on Ray, in a process of its own: see `test_engines.test_ray`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from backend.engines.ray_data import RayData
from backend.label_studio.records import TaskRef
from backend.settings import Settings
from backend.store.tables import metadata
from tests.engines.test_engines import by_the_embedded, opened, run, stored
from tests.label_studio.conftest import WebServer


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster on this machine, and that of its two nodes which holds nothing but an actor."""
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": 100 * 1024**2, "num_cpus": 2}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        cluster.shutdown()


def actors_of(node: Any) -> list[psutil.Process]:
    raylet = node.all_processes["raylet"][0].process
    children = psutil.Process(raylet.pid).children(recursive=True)
    return [child for child in children if "MapWorker" in " ".join(child.cmdline())]


def test_a_node_that_dies_loses_nothing_and_doubles_nothing(
    settings: Settings, tasks: list[TaskRef], web: WebServer, postgres_url: str, tmp_path: Path
) -> None:
    shard_tasks, asked, go_on = 4, set[int](), threading.Event()
    times: dict[int, int] = {}

    def held(number: int, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """No image is served before two shards are being worked on."""

        def serve(handler: Any) -> None:
            asked.add(number // shard_tasks)
            times[number] = times.get(number, 0) + 1
            go_on.wait()
            answer(handler)

        return serve

    for number in range(len(tasks)):
        web.answers[f"/{number}.jpg"] = held(number, web.answers[f"/{number}.jpg"])
    killed: list[int] = []

    with two_nodes() as (cluster, second):
        shared = settings.model_copy(
            update={
                "database_url": type(settings.database_url)(postgres_url),
                "ray_address": cluster.address,
            }
        )

        def kill_in_the_middle() -> None:
            deadline = time.monotonic() + 120
            while len(asked) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            killed.extend(process.pid for process in actors_of(second))
            cluster.remove_node(second, allow_graceful=False)
            go_on.set()

        with opened(shared) as (scorer, store):
            with store.begin() as connection:
                for table in metadata.tables.values():
                    connection.execute(table.delete())
            store.save_detector(scorer.detector_version, scorer.class_names)
            killer = threading.Thread(target=kill_in_the_middle)
            killer.start()
            done = run(RayData(shared, shard_tasks=shard_tasks), scorer, tasks)
            killer.join()
            there = stored(scorer, store, tasks)

    assert killed
    assert max(times.values()) > 1  # what the dead node had in its hands was done again
    assert (done.scored, done.reused, done.skipped) == (len(tasks), 0, {})
    assert there == by_the_embedded(settings, tasks, tmp_path)


def test_ray_on_this_machine(settings: Settings, tasks: list[TaskRef], tmp_path: Path) -> None:
    """With SQLite, whose writers on one machine wait for each other."""
    with opened(settings) as (scorer, store):
        done = run(RayData(settings, shard_tasks=5), scorer, tasks)
        assert (done.scored, done.reused, done.skipped) == (len(tasks), 0, {})
        assert stored(scorer, store, tasks) == by_the_embedded(settings, tasks, tmp_path)
