"""Every figure that Prometheus reads, defined once.

As loggers are, the figures are of the process: the parts that count need nothing handed to them.
They are in a registry of their own, so that nothing else that uses prometheus_client in this
process mixes with them. What belongs to one app (its queue, its store) is gathered when someone
asks, see `api/routes/health.py`.

No figure but `LABELLED` and `ANSWERS` has a label that grows with the data: routes are templates,
and projects are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import Literal, get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    Summary,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

Stage = Literal["fetch", "decode", "detect", "embed", "store", "rank", "publish"]
StudioErrorKind = Literal["timeout", "unreachable", "4xx", "5xx", "other"]

OF_PROCESS = CollectorRegistry()

IMAGES_SCORED = Counter(
    "hardest_first_images_scored", "Images scored and stored.", registry=OF_PROCESS
)
IMAGES_SKIPPED = Counter(
    "hardest_first_images_skipped", "Images that could not be scored.", registry=OF_PROCESS
)
STAGE_SECONDS = Histogram(
    "hardest_first_stage_seconds",
    "Seconds in each stage: of one image (fetch, decode), of a batch (detect, embed, store), "
    "of an order (rank, publish).",
    ["stage"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0),
    registry=OF_PROCESS,
)
IMAGE_CACHE = Counter(
    "hardest_first_image_cache", "Look-ups in the image cache.", ["result"], registry=OF_PROCESS
)
STUDIO_ERRORS = Counter(
    "hardest_first_label_studio_errors",
    "Calls to Label Studio that failed, after their retries.",
    ["kind"],
    registry=OF_PROCESS,
)
JOB_SECONDS = Summary(
    "hardest_first_job_seconds",
    "Seconds that this process worked on jobs, by how they ended.",
    ["kind", "state"],
    registry=OF_PROCESS,
)
HTTP_REQUESTS = Counter(
    "hardest_first_http_requests",
    "Requests answered.",
    ["method", "route", "status"],
    registry=OF_PROCESS,
)
HTTP_SECONDS = Histogram(
    "hardest_first_http_request_seconds",
    "Seconds until a request was answered to its end; a stream ends when its reader leaves.",
    ["method", "route"],
    buckets=(0.005, 0.025, 0.1, 0.25, 1.0, 3.0, 10.0, 100.0),
    registry=OF_PROCESS,
)

# Those that are known beforehand begin at 0: an alert needs a figure before the first error.
for _stage in get_args(Stage):
    STAGE_SECONDS.labels(_stage)
for _kind in get_args(StudioErrorKind):
    STUDIO_ERRORS.labels(_kind)
for _result in ("hit", "miss"):
    IMAGE_CACHE.labels(_result)


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Count the seconds of a block to a stage, also where it fails."""
    started = perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(stage).observe(perf_counter() - started)


def count_look_up(*, hit: bool) -> None:
    """One look into the image cache."""
    IMAGE_CACHE.labels("hit" if hit else "miss").inc()


def count_studio_error(kind: StudioErrorKind) -> None:
    """One failed call to Label Studio."""
    STUDIO_ERRORS.labels(kind).inc()


def count_studio_refusal(status: int) -> None:
    """One call that Label Studio answered with an error status."""
    count_studio_error("5xx" if status >= 500 else "4xx" if status >= 400 else "other")


def gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    """An empty gauge of this project, filled at each scrape."""
    return GaugeMetricFamily(f"hardest_first_{name}", meaning, labels=labels)


def registry_with(*collectors: Collector) -> CollectorRegistry:
    """The figures of the process, its CPU, memory and files, and those of `collectors`."""
    joined = CollectorRegistry()
    for part in (OF_PROCESS, _process(), *collectors):
        joined.register(part)
    return joined


def exposition(*collectors: Collector) -> bytes:
    """The same in the text form that Prometheus reads (`CONTENT_TYPE`)."""
    return generate_latest(registry_with(*collectors))


@lru_cache(maxsize=1)
def _process() -> ProcessCollector:
    # Made at the first call: it reads /proc.
    return ProcessCollector(registry=None)
