"""Draws the benchmark's scenes: objects and clutter on a textured ground, photographed.

A scene is laid out once; a frame is a look at it. Frames of one scene differ by a shake of the
camera, objects that shifted a little, and the noise of the sensor: near-duplicates.
Light, shadows and camera are the demo's (`demo.drawing`, `demo.camera`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.grounds import GROUNDS
from benchmarks.shapes import CLUTTER, Kind
from demo.camera import Exposure, light_field, take
from demo.drawing import (
    SUPERSAMPLING,
    Array,
    Lamp,
    Lighting,
    Sprite,
    cloud,
    lit,
    normals,
    placed,
    put_down,
    reflected,
    shrink,
    smoothstep,
)

MARGIN = 12
"""Pixels of ground around the picture, for the camera to shake into."""

_LEAST_VISIBLE = 0.3  # share of an object that must be seen for it to be labelled
_LEAST_SIDE = 5.0  # pixels


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture and what is on it.

    Args:
        jpeg: the file, a square picture.
        xyxy: (N, 4) float64 boxes around what is visible, left, top, right, bottom as shares
            (0..1) of the picture.
        class_ids: (N,) int64, places in the mapping that the scene was drawn from.
    """

    jpeg: bytes
    xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Thing:
    class_id: int  # -1: clutter
    sprite: Sprite
    corner: tuple[float, float]  # top left (x, y), pixels on the canvas


class Scene:
    """Things on a ground.

    Args:
        side: width and height of its pictures in pixels.
        kinds: class name -> what it is, in the order of the class numbers.
        class_ids: the objects to put down; of several places the emptiest is taken.
        hard: whether it is hard to see: dim, blurred, crowded with clutter or in shadow.
        rng: source of chance for all of it, the frames included.
    """

    def __init__(
        self,
        side: int,
        kinds: Mapping[str, Kind],
        class_ids: NDArray[np.int64],
        *,
        hard: bool,
        rng: np.random.Generator,
    ) -> None:
        self._side = side
        self._rng = rng
        canvas = (side + 2 * MARGIN, side + 2 * MARGIN)
        trouble = rng.choice(("dim", "blur", "motion", "litter", "shadow")) if hard else ""
        self._lighting = _lighting(rng)
        self._ground = GROUNDS[int(rng.integers(len(GROUNDS)))](canvas, rng)
        self._exposure = _exposure(trouble, rng)
        slope = (rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25))
        shadow = rng.uniform(0.55, 0.8) if trouble == "shadow" else 0.0
        self._field = light_field((side, side), slope, rng, shadow)[..., None]
        self._things = self._laid(kinds, class_ids, 14 if trouble == "litter" else 5)

    def frame(self, *, shake: float = 0.0) -> Frame:
        """Take a picture.

        Args:
            shake: 0 is a camera and objects that stand still, 1 a hand-held camera.
        """
        light, owner = self._composed(shake)
        light, owner = self._seen(light, owner, shake)
        exposure = replace(
            self._exposure, gain=self._exposure.gain * float(self._rng.normal(1, 0.04 * shake))
        )
        xyxy, class_ids = self._boxes(owner)
        jpeg = take(light * self._field, exposure, self._rng)
        return Frame(jpeg, xyxy / self._side, class_ids)

    def _laid(
        self, kinds: Mapping[str, Kind], class_ids: NDArray[np.int64], litter: int
    ) -> list[_Thing]:
        rng, makers = self._rng, list(kinds.values())
        clutter = [-1] * int(rng.integers(1, litter + 1))
        order = rng.permutation(np.concatenate([class_ids, clutter]).astype(int))
        taken: list[tuple[float, float, float]] = []
        things = []
        for class_id in order.tolist():
            if class_id >= 0:
                kind = makers[class_id]
                radius = self._side * float(rng.uniform(0.09, 0.2))
            else:
                kind = CLUTTER[int(rng.integers(len(CLUTTER)))]
                radius = self._side * float(rng.uniform(0.03, 0.11))
            sprite = _drawn(kind, radius, self._lighting, rng)
            if not (sprite.alpha > 0.5).any():
                continue  # clutter too thin to be seen
            x, y = self._place(radius, taken)
            taken.append((x, y, radius))
            half = len(sprite.alpha) / 2
            things.append(_Thing(class_id, sprite, (x - half, y - half)))
        return things

    def _place(self, radius: float, taken: list[tuple[float, float, float]]) -> tuple[float, float]:
        """The middle for a thing: of four random ones, the one that overlaps the others least."""
        low, high = MARGIN + 0.3 * radius, MARGIN + self._side - 0.3 * radius
        spots = self._rng.uniform(low, high, (4, 2))
        if not taken:
            return float(spots[0, 0]), float(spots[0, 1])
        others = np.asarray(taken)
        gap = np.linalg.norm(spots[:, None] - others[None, :, :2], axis=2) - others[:, 2] - radius
        x, y = spots[gap.min(axis=1).argmax()]
        return float(x), float(y)

    def _composed(self, shake: float) -> tuple[Array, NDArray[np.int16]]:
        light = self._ground.copy()
        owner = np.full(light.shape[:2], -1, np.int16)
        for number, thing in enumerate(self._things):
            x, y = np.asarray(thing.corner) + shake * self._rng.normal(0, 1.0, 2)
            corner = (round(x), round(y))
            put_down(light, thing.sprite, corner, self._lighting)
            there, here = placed(owner.shape, thing.sprite.alpha.shape, corner)
            owner[there][thing.sprite.alpha[here] > 0.5] = number
        return light, owner

    def _seen(
        self, light: Array, owner: NDArray[np.int16], shake: float
    ) -> tuple[Array, NDArray[np.int16]]:
        """The part of the canvas that the camera sees."""
        middle = MARGIN + self._side / 2
        turn, zoom = shake * self._rng.normal(0, (1.5, 0.012))
        matrix = cv2.getRotationMatrix2D((middle, middle), turn, 1 + zoom)
        moved = np.clip(shake * self._rng.normal(0, 3.0, 2), -8, 8) - MARGIN
        matrix[0, 2] += moved[0]
        matrix[1, 2] += moved[1]
        size, edge = (self._side, self._side), cv2.BORDER_REFLECT
        seen = cv2.warpAffine(light, matrix, size, flags=cv2.INTER_LINEAR, borderMode=edge)
        owned = cv2.warpAffine(owner, matrix, size, flags=cv2.INTER_NEAREST, borderValue=-1)
        return seen.astype(np.float32, copy=False), owned.astype(np.int16, copy=False)

    def _boxes(self, owner: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Boxes in pixels of the objects that can be seen well enough."""
        boxes, class_ids = [], []
        for number, thing in enumerate(self._things):
            if thing.class_id < 0:
                continue
            rows, columns = np.nonzero(owner == number)
            whole = np.count_nonzero(thing.sprite.alpha > 0.5)
            if len(rows) < _LEAST_VISIBLE * whole:
                continue
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if min(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE:
                boxes.append(box)
                class_ids.append(thing.class_id)
        return np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(class_ids, np.int64)


def _lighting(rng: np.random.Generator) -> Lighting:
    turn, high = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.1)
    direction = (0.7 * math.cos(turn), 0.7 * math.sin(turn), high)
    lamp = Lamp(direction, float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.1, 0.3)))
    return Lighting((lamp,), float(rng.uniform(0.3, 0.5)), float(rng.uniform(0.3, 0.6)))


def _exposure(trouble: str, rng: np.random.Generator) -> Exposure:
    gain, noise = rng.uniform(0.8, 1.25), rng.uniform(0.7, 1.6)
    defocus, motion = rng.uniform(0, 0.5), 0.0
    if trouble == "dim":
        gain, noise = rng.uniform(0.15, 0.35), rng.uniform(2.0, 3.5)
    elif trouble == "blur":
        defocus = rng.uniform(1.2, 2.2)
    elif trouble == "motion":
        motion = rng.uniform(4, 8)
    white = (float(rng.normal(1, 0.05)), 1.0, float(rng.normal(1, 0.07)))
    return Exposure(gain, defocus, motion, noise, white, int(rng.integers(80, 95)))


def _drawn(kind: Kind, radius: float, lighting: Lighting, rng: np.random.Generator) -> Sprite:
    """A thing of `radius` pixels in some colour and finish, turned and perhaps seen aslant."""
    extent = math.ceil(radius) + 2
    size = 2 * extent * SUPERSAMPLING
    grid = ((np.arange(size, dtype=np.float32) + 0.5) / SUPERSAMPLING - extent) / radius
    turn, squeeze = rng.uniform(0, 2 * math.pi), rng.uniform(1.0, 1.25)
    u = grid[None, :] * math.cos(turn) + grid[:, None] * math.sin(turn)
    v = grid[:, None] * math.cos(turn) - grid[None, :] * math.sin(turn)
    aslant = rng.uniform(0, math.pi)
    along = u * math.cos(aslant) + v * math.sin(aslant)
    u = u + (squeeze - 1) * along * math.cos(aslant)
    v = v + (squeeze - 1) * along * math.sin(aslant)
    distance, carving = kind.shape(u.astype(np.float32), v.astype(np.float32), rng)
    bevel, thick = rng.uniform(0.12, 0.4), radius * rng.uniform(0.14, 0.3)
    slope = np.clip(-distance / bevel, 0, 1)
    relief = thick * (0.3 + 0.7 * np.sqrt(1 - (1 - slope) ** 2)) - 0.45 * thick * carving * slope
    solid = distance < 0
    height = np.where(solid, np.maximum(relief, 0.3), 0).astype(np.float32)
    rgb = _coloured(height, kind.hue, lighting, rng) * solid[..., None]
    alpha = shrink(solid.astype(np.float32))
    light = shrink(rgb) / np.maximum(alpha, 1e-3)[..., None]
    return Sprite(light.astype(np.float32), alpha, shrink(height), {})


def _coloured(
    height: Array, hue: float | None, lighting: Lighting, rng: np.random.Generator
) -> Array:
    n = normals(height, scale=float(SUPERSAMPLING))
    gloss = float(rng.choice([0.0, 0.15, 0.5]))
    light = (1 - gloss) * lit(n, lighting) + gloss * reflected(n, lighting, 1.5)
    spots = cloud(height.shape, rng.uniform(6, 24), rng, 2)
    other = smoothstep(0.2, 0.8, spots)[..., None] * float(rng.choice([0.0, 0.35, 0.8]))
    tint = _colour(hue, rng) * (1 - other) + _colour(None, rng) * other
    return light[..., None] * tint * (1 + 0.08 * spots)[..., None]


def _colour(usual: float | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3,) linear reflectance: near the usual hue in three of four cases, else any, often dull."""
    hue, vivid, bright = rng.uniform(0, 1), rng.beta(1.3, 2.0), rng.uniform(0.12, 0.75)
    if usual is not None and rng.random() < 0.75:
        hue, vivid = usual + rng.normal(0, 0.04), rng.beta(3.0, 2.0)
    wheel = np.clip(np.abs((hue * 6 + np.asarray((0.0, 4.0, 2.0))) % 6 - 3) - 1, 0, 1)
    return (bright * (1 - vivid + vivid * wheel)).astype(np.float32)
