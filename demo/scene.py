"""A camera over an inspection line: generated frames that look like photographs, with their boxes.

A *sequence* is one stretch of belt that moves past the camera; its frames are near-duplicates. The
parts lie on the stretch once; each frame is a window on it, seen through the same light, lens and
sensor with a little noise of its own. The same seed gives the same frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.drawing import Array, Lamp, Lighting, cloud, put_down
from demo.ground import GROUNDS, belt, scatter_clutter
from demo.parts import MAKERS
from demo.sprites import draw

WIDTH, HEIGHT = 640, 480
CLASSES = ("bolt", "nut", "washer", "gear", "bracket", "spring", "crack", "dent")

# Frames show at least this share of an object, or it is not annotated.
_VISIBLE_SHARE = 0.4
_MIN_SIDE = 8


@dataclass(frozen=True)
class Mix:
    """What is on the line.

    Attributes:
        parts: weight of each part; the tail is long.
        crack, dent: how likely a part is damaged so.
        crowd: mean number of parts in view.
        hard: share of sequences under bad conditions: dark, blurred, cluttered.
    """

    parts: tuple[tuple[str, float], ...]
    crack: float
    dent: float
    crowd: float
    hard: float


POOL = Mix(
    parts=(
        ("bolt", 0.36),
        ("nut", 0.28),
        ("washer", 0.20),
        ("gear", 0.06),
        ("bracket", 0.06),
        ("spring", 0.04),
    ),
    crack=0.035,
    dent=0.025,
    crowd=6.0,
    hard=0.35,
)
"""The unlabelled pool: everything occurs, most of it is ordinary."""

TRAINING = replace(
    POOL,
    parts=(
        ("bolt", 0.40),
        ("nut", 0.32),
        ("washer", 0.24),
        ("gear", 0.025),
        ("bracket", 0.01),
        ("spring", 0.005),
    ),
    crack=0.006,
    dent=0.004,
    hard=0.12,
)
"""What the demo's detector has seen: the ordinary, hardly any of the tail."""


@dataclass(frozen=True)
class Frame:
    """One picture of the line.

    Attributes:
        pixels: (480, 640, 3) uint8 RGB.
        xyxy: (N, 4) float32 boxes in pixels: left, top, right, bottom.
        class_ids: (N,) indices into `CLASSES`.
        sequence: key of the stretch of belt it shows.
        number: its place in the sequence, from 0.
    """

    pixels: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    sequence: str
    number: int

    @property
    def name(self) -> str:
        """File name without ending, such as line2_seq031_f04."""
        return f"{self.sequence}_f{self.number:02d}"


@dataclass(frozen=True)
class _Stretch:
    """A stretch of belt with its parts, before the camera.

    `owner` says which part is on top at each pixel (0: none); `things` holds, for each object, its
    class, its part's number and its pixels on the stretch (a defect's are some of its part's).
    """

    light: Array
    owner: NDArray[np.int16]
    things: list[tuple[int, int, NDArray[np.bool_], tuple[int, int]]]


@dataclass(frozen=True)
class _Camera:
    """What turns light into a file: constant over a sequence."""

    exposure: float
    defocus: float
    motion: float
    noise: float
    quality: int
    warmth: float
    falloff: Array


def generate(count: int, seed: int, *, mix: Mix = POOL, singles: float = 0.3) -> Iterator[Frame]:
    """`count` frames, sequence after sequence.

    Args:
        count: how many frames.
        seed: the same seed gives the same frames.
        mix: what is on the line.
        singles: share of sequences that are one frame long; the others have 5 to 12 frames.
    """
    made = 0
    number = 0
    while made < count:
        rng = np.random.default_rng([seed, number])
        length = 1 if rng.random() < singles else int(rng.integers(5, 13))
        length = min(length, count - made)
        yield from _sequence(f"line{seed % 9 + 1}_seq{number:03d}", length, rng, mix)
        made += length
        number += 1


def write_pool(folder: Path, count: int = 240, seed: int = 1, *, mix: Mix = POOL) -> None:
    """Write frames as a YOLO data set: `images/*.jpg`, `labels/*.txt`, `data.yaml`."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for frame in generate(count, seed, mix=mix):
        # The sensor's own JPEG artefacts are in the pixels already.
        path = folder / "images" / f"{frame.name}.jpg"
        cv2.imwrite(str(path), frame.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        (folder / "labels" / f"{frame.name}.txt").write_text(yolo_label(frame))
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames:\n{names}\n")


def yolo_label(frame: Frame) -> str:
    """One line a box: class, centre x, centre y, width, height, relative to the image."""
    lines = []
    for (left, top, right, bottom), class_id in zip(frame.xyxy, frame.class_ids, strict=True):
        x, y = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
        w, h = (right - left) / WIDTH, (bottom - top) / HEIGHT
        lines.append(f"{class_id} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
    return "".join(lines)


def _sequence(key: str, length: int, rng: np.random.Generator, mix: Mix) -> Iterator[Frame]:
    hard = rng.random() < mix.hard
    step = int(rng.integers(4, 13))
    lighting = _lighting(rng)
    stretch = _stretch(WIDTH + step * (length - 1), rng, mix, lighting, hard)
    camera = _camera(rng, hard)
    for number in range(length):
        left = step * (length - 1 - number)
        xyxy, class_ids = _boxes(stretch, left)
        light = stretch.light[:, left : left + WIDTH]
        yield Frame(_expose(light, camera, rng), xyxy, class_ids, key, number)


def _lighting(rng: np.random.Generator) -> Lighting:
    turn = rng.uniform(0, 2 * math.pi)
    slant = rng.uniform(0.35, 0.75)
    key = Lamp((slant * math.cos(turn), slant * math.sin(turn), 0.75), rng.uniform(0.8, 1.3), 0.12)
    fill = Lamp((-0.5 * math.cos(turn), 0.5 * math.sin(turn), 0.8), rng.uniform(0.2, 0.6), 0.2)
    return Lighting((key, fill), rng.uniform(0.25, 0.42), rng.uniform(0.4, 0.7))


def _stretch(
    width: int, rng: np.random.Generator, mix: Mix, lighting: Lighting, hard: bool
) -> _Stretch:
    light = belt(GROUNDS[int(rng.integers(len(GROUNDS)))], (HEIGHT, width), rng)
    clutter = rng.uniform(0.3, 1.0) if hard else rng.uniform(0.0, 0.3)
    scatter_clutter(light, clutter, rng)
    owner = np.zeros((HEIGHT, width), np.int16)
    things: list[tuple[int, int, NDArray[np.bool_], tuple[int, int]]] = []
    names, weights = zip(*mix.parts, strict=True)
    share = np.asarray(weights) / sum(weights)
    count = max(1, int(rng.poisson(mix.crowd * rng.uniform(0.5, 1.6) * width / WIDTH)))
    rust = rng.uniform(0.3, 0.9) if rng.random() < (0.3 if hard else 0.08) else 0.0
    scale = rng.uniform(0.75, 1.15)
    for number in range(1, count + 1):
        name = str(rng.choice(names, p=share))
        draws = rng.random()
        defect = "crack" if draws < mix.crack else "dent" if draws > 1 - mix.dent else None
        sprite = draw(
            MAKERS[name](rng, scale * rng.uniform(0.9, 1.1)),
            rng.uniform(0, 2 * math.pi),
            lighting,
            rng,
            rust=rust,
            defect=None if name == "spring" else defect,
        )
        h, w = sprite.alpha.shape
        corner = _free_corner(owner, (h, w), rng, crowded=hard)
        put_down(light, sprite, corner, lighting)
        solid = sprite.alpha > 0.5
        _claim(owner, solid, corner, number)
        things.append((CLASSES.index(name), number, solid, corner))
        for mark, mask in sprite.marks.items():
            if mask.any():
                things.append((CLASSES.index(mark), number, mask, corner))
    return _Stretch(light, owner, things)


def _free_corner(
    owner: NDArray[np.int16], size: tuple[int, int], rng: np.random.Generator, *, crowded: bool
) -> tuple[int, int]:
    """A place (x, y) for a sprite; parts overlap only where the line is crowded."""
    height, width = owner.shape
    corner = (0, 0)
    for _ in range(3 if crowded else 12):
        corner = (
            int(rng.integers(-size[1] // 3, width - size[1] * 2 // 3)),
            int(rng.integers(-size[0] // 4, height - size[0] * 3 // 4)),
        )
        x, y = max(corner[0], 0), max(corner[1], 0)
        if not owner[y : corner[1] + size[0], x : corner[0] + size[1]].any():
            break
    return corner


def _claim(
    owner: NDArray[np.int16], solid: NDArray[np.bool_], corner: tuple[int, int], number: int
) -> None:
    rows, columns = np.nonzero(solid)
    rows, columns = rows + corner[1], columns + corner[0]
    inside = (rows >= 0) & (columns >= 0) & (rows < owner.shape[0]) & (columns < owner.shape[1])
    owner[rows[inside], columns[inside]] = number


def _boxes(stretch: _Stretch, left: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The boxes of what the window from `left` on shows, around the visible pixels."""
    boxes: list[tuple[int, int, int, int]] = []
    class_ids: list[int] = []
    for class_id, number, mask, (x, y) in stretch.things:
        rows, columns = np.nonzero(mask)
        rows, columns = rows + y, columns + x
        seen = (rows >= 0) & (rows < HEIGHT) & (columns >= left) & (columns < left + WIDTH)
        seen[seen] = stretch.owner[rows[seen], columns[seen]] == number
        if seen.sum() < _VISIBLE_SHARE * len(rows):
            continue
        rows, columns = rows[seen], columns[seen] - left
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if min(box[2] - box[0], box[3] - box[1]) >= _MIN_SIDE:
            boxes.append(box)
            class_ids.append(class_id)
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(class_ids, np.int64)


def _camera(rng: np.random.Generator, hard: bool) -> _Camera:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    centre = (rng.uniform(0.25, 0.75) * WIDTH, rng.uniform(0.25, 0.75) * HEIGHT)
    radius = np.hypot((x - centre[0]) / WIDTH, (y - centre[1]) / HEIGHT)
    falloff = 1.25 - rng.uniform(0.5, 1.1) * radius**2
    if rng.random() < 0.4:  # somebody stands in the light
        angle = rng.uniform(0, math.pi)
        side = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
        edge = rng.uniform(60, 220)
        soft = rng.uniform(15, 60)
        falloff *= 1.0 - rng.uniform(0.25, 0.6) / (1.0 + np.exp(-(side - edge) / soft))
    falloff *= 1.0 + 0.03 * cloud((HEIGHT, WIDTH), 200.0, rng, 2)
    return _Camera(
        exposure=float(rng.uniform(0.35, 0.8) if hard else rng.uniform(0.9, 1.35)),
        defocus=float(rng.uniform(0.8, 2.6) if hard else rng.uniform(0.3, 0.8)),
        motion=float(rng.uniform(0, 9) if hard else rng.uniform(0, 2)),
        noise=float(rng.uniform(0.010, 0.030) if hard else rng.uniform(0.003, 0.010)),
        quality=int(rng.integers(55, 90)),
        warmth=float(rng.normal(0, 0.05)),
        falloff=np.clip(falloff, 0.15, 1.5).astype(np.float32),
    )


def _expose(light: Array, camera: _Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light -> (480, 640, 3) uint8 RGB as the sensor saves it."""
    flicker = camera.exposure * (1.0 + rng.normal(0, 0.015))
    image = light * (camera.falloff * flicker)[..., None]
    image = image * np.asarray((1 + camera.warmth, 1.0, 1 - camera.warmth), np.float32)
    image = cv2.GaussianBlur(image, (0, 0), camera.defocus)
    if camera.motion >= 2:
        kernel = np.full((1, int(camera.motion)), 1.0 / int(camera.motion), np.float32)
        image = cv2.filter2D(image, -1, kernel)
    glow = cv2.GaussianBlur(np.maximum(image - 0.9, 0.0), (0, 0), 6.0)
    image = image + 0.35 * glow
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + grain * (camera.noise * np.sqrt(np.maximum(image, 0.0) + 0.02))
    # A camera's curve: gamma, with the highlights rolled off.
    shown = np.clip(image, 0.0, None) ** (1 / 2.2)
    shown = np.where(shown > 0.8, 0.8 + 0.2 * np.tanh((shown - 0.8) / 0.2), shown)
    pixels = (np.clip(shown, 0, 1) * 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])
