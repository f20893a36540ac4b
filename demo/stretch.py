"""A stretch of belt with parts and litter on it: its light, and what lies where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.drawing import Array, Lighting, placed, put_down
from demo.ground import BELTS, cable, chips, crumbs, oil
from demo.parts import MAKERS
from demo.sprites import draw

CLASSES = ("bolt", "nut", "washer", "gear", "bracket", "spring", "crack", "dent")
"""Class names; the place is the class number. The last two are defects of a part."""

_CAN_DENT = ("nut", "washer", "gear", "bracket")
_CAN_CRACK = ("bolt", *_CAN_DENT)


@dataclass(frozen=True)
class Mix:
    """What is on the line.

    Attributes:
        parts: (up to 6,) weight of each part, in the order of `CLASSES`.
        crack: share of the parts that are cracked.
        dent: share of the parts that are dented.
        crowd: mean number of parts in view.
        hard: 0..1, share of sequences under bad conditions: dark, blurred, crowded, cluttered.
        tail: 0..1, share of sequences with rare parts and defects; the others show none.
    """

    parts: tuple[float, ...]
    crack: float
    dent: float
    crowd: float
    hard: float
    tail: float = 1.0


@dataclass(frozen=True)
class Litter:
    """How much lies about that is no part: counts for one picture's width."""

    chips: int = 0
    oil: int = 0
    crumbs: int = 60
    cables: int = 0


@dataclass(frozen=True)
class Thing:
    """A part or defect on a stretch.

    Attributes:
        class_id: index into `CLASSES`.
        owner: number of its part in `Stretch.owner`.
        rows, columns: (n,) its pixels on the stretch.
        area: its pixels when nothing hides it.
    """

    class_id: int
    owner: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    area: int


@dataclass(frozen=True)
class Stretch:
    """A drawn stretch of belt.

    Attributes:
        light: (h, w, 3) linear light.
        owner: (h, w) number of the part on top, 0 where there is none.
        things: the parts and their defects.
    """

    light: Array
    owner: NDArray[np.int16]
    things: tuple[Thing, ...]


def lay(
    shape: tuple[int, int],
    belt: str,
    lighting: Lighting,
    mix: Mix,
    litter: Litter,
    rng: np.random.Generator,
    *,
    crowded: bool = False,
    rust: float = 0.0,
    scale: float = 1.3,
) -> Stretch:
    """Draw a stretch of `shape` (h, w) pixels with parts drawn from `mix`."""
    light = BELTS[belt](shape, lighting, rng)
    wider = shape[1] / 640
    crumbs(light, rng, int(litter.crumbs * wider))
    oil(light, lighting, rng, int(litter.oil * wider))
    chips(light, lighting, rng, litter.chips // 2)
    owner = np.zeros(shape, np.int16)
    things: list[Thing] = []
    mean = mix.crowd * (2.0 if crowded else 1.0) * wider
    heap = (rng.uniform(0.25, 0.75) * shape[1], rng.uniform(0.3, 0.7) * shape[0])
    for number in range(1, max(1, int(rng.poisson(mean))) + 1):
        things += _put_part(
            light, owner, number, mix, lighting, rng, heap if crowded else None, rust, scale
        )
    chips(light, lighting, rng, litter.chips - litter.chips // 2)
    for _ in range(litter.cables):
        before = light.copy()
        cable(light, lighting, rng)
        owner[np.abs(light - before).max(axis=2) > 0.12] = -1
    return Stretch(light, owner, tuple(things))


def _put_part(
    light: Array,
    owner: NDArray[np.int16],
    number: int,
    mix: Mix,
    lighting: Lighting,
    rng: np.random.Generator,
    heap: tuple[float, float] | None,
    rust: float,
    scale: float,
) -> list[Thing]:
    share = np.asarray(mix.parts) / sum(mix.parts)
    name = CLASSES[int(rng.choice(len(share), p=share))]
    draws = rng.random()
    defect = None
    if draws < mix.crack and name in _CAN_CRACK:
        defect = "crack"
    elif draws > 1.0 - mix.dent and name in _CAN_DENT:
        defect = "dent"
    part = MAKERS[name](rng, scale * rng.uniform(0.92, 1.08))
    angle = rng.uniform(0, 2 * math.pi)
    sprite = draw(part, angle, lighting, rng, rust=rust * rng.uniform(0, 1), defect=defect)
    size = sprite.alpha.shape
    corner = _place(owner, (size[0], size[1]), sprite.alpha > 0.5, rng, heap)
    if corner is None:
        return []
    put_down(light, sprite, corner, lighting)
    things = [_thing(CLASSES.index(name), number, sprite.alpha > 0.5, corner, owner)]
    owner[things[0].rows, things[0].columns] = number
    for mark, mask in sprite.marks.items():
        if mask.any():
            things.append(_thing(CLASSES.index(mark), number, mask, corner, owner))
    return things


def _place(
    owner: NDArray[np.int16],
    size: tuple[int, int],
    solid: NDArray[np.bool_],
    rng: np.random.Generator,
    heap: tuple[float, float] | None,
) -> tuple[int, int] | None:
    """A corner (x, y) for a sprite: free ground, or around a heap; None if it finds no room."""
    height, width = owner.shape
    for attempt in range(14):
        if heap is not None:
            middle = (rng.normal(heap[0], 0.22 * width), rng.normal(heap[1], 0.22 * height))
        else:
            middle = (rng.uniform(-10, width + 10), rng.uniform(20, height))
        corner = (int(middle[0] - size[1] / 2), int(middle[1] - size[0] / 2))
        there, here = placed((height, width), size, corner)
        covered = np.count_nonzero(owner[there][solid[here]])
        allowed = 0.35 if heap is not None else 0.10 * (attempt > 8)
        if covered <= allowed * np.count_nonzero(solid):
            return corner
    return None


def _thing(
    class_id: int,
    number: int,
    mask: NDArray[np.bool_],
    corner: tuple[int, int],
    owner: NDArray[np.int16],
) -> Thing:
    rows, columns = np.nonzero(mask)
    area = len(rows)
    rows, columns = rows + corner[1], columns + corner[0]
    inside = (rows >= 0) & (columns >= 0) & (rows < owner.shape[0]) & (columns < owner.shape[1])
    return Thing(class_id, number, rows[inside], columns[inside], area)


def visible_boxes(
    stretch: Stretch,
    window: tuple[int, int, int, int],
    *,
    share: float = 0.35,
    smallest: int = 8,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes around the visible pixels of each thing in a window.

    Args:
        stretch: the drawn stretch.
        window: left, top, right, bottom on the stretch, in pixels.
        share: a thing is left out when less of it is seen.
        smallest: boxes narrower or lower than this many pixels are left out.

    Returns:
        (N, 4) float32 xyxy relative to the window's left and to row 0; (N,) class numbers.
    """
    left, top, right, bottom = window
    boxes: list[tuple[int, int, int, int]] = []
    class_ids: list[int] = []
    for thing in stretch.things:
        rows, columns = thing.rows, thing.columns
        seen = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        seen &= stretch.owner[rows, columns] == thing.owner
        if seen.sum() < max(share * thing.area, 1):
            continue
        rows, columns = rows[seen], columns[seen] - left
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if min(box[2] - box[0], box[3] - box[1]) >= smallest:
            boxes.append(box)
            class_ids.append(thing.class_id)
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(class_ids, np.int64)
