"""Decoding beside detecting: threads prepare the next images while one works on the last."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from backend.detections import Detections
from backend.errors import HardestFirstError
from backend.metrics import timed
from backend.vision.models import ImageInputs, Models, Observation
from backend.vision.picture import decode

Item = TypeVar("Item")
Outcome = tuple[Item, Observation | HardestFirstError]


def observe_all(
    models: Models,
    items: Iterable[Item],
    load: Callable[[Item], bytes],
    *,
    embedded: Callable[[Item], bool] = lambda item: False,
    detections: Callable[[Item], Detections | None] = lambda item: None,
    batch_size: int = 8,
    threads: int = 4,
) -> Iterator[Outcome[Item]]:
    """Observe many images, in order, however many there are.

    `load`, decoding and scaling run in threads, two batches ahead; the models run in the caller's
    thread, while the generator is advanced. Close the generator to stop early.

    Args:
        models: what observes.
        items: one for each image; consumed as needed.
        load: the bytes of an item's image file. Called from threads.
        embedded: whether an item's embedding is known, asked after its `load`, in its thread.
        detections: an item's objects where they are known, asked likewise.
        batch_size: images that are given to the models at once.
        threads: how many images are loaded at once.

    Yields:
        Each item with its observation, or with the error (ImageError, LabelStudioError) that kept
        it from being loaded. Errors that are not this project's own are raised.
    """
    source = iter(items)
    waiting: deque[tuple[Item, Future[ImageInputs]]] = deque()

    def inputs_of(item: Item) -> ImageInputs:
        data = load(item)
        with timed("decode"):
            picture = decode(data, long_side=models.long_side)
        return models.prepare(picture, embedded=embedded(item), detections=detections(item))

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while True:
                room = 3 * batch_size - len(waiting)
                for item in itertools.islice(source, room):
                    waiting.append((item, pool.submit(inputs_of, item)))
                if not waiting:
                    return
                batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                yield from _observe_batch(models, batch)
        finally:
            pool.shutdown(cancel_futures=True)


def _observe_batch(
    models: Models, batch: list[tuple[Item, Future[ImageInputs]]]
) -> Iterator[Outcome[Item]]:
    results: list[ImageInputs | HardestFirstError] = []
    for _, future in batch:
        try:
            results.append(future.result())
        except HardestFirstError as error:
            results.append(error)
    ready = [result for result in results if isinstance(result, ImageInputs)]
    observations = iter(models.observe(ready))
    for (item, _), result in zip(batch, results, strict=True):
        yield item, next(observations) if isinstance(result, ImageInputs) else result
