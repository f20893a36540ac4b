"""A camera over an inspection line: generated frames that look like photographs, with their boxes.

A *sequence* is one stretch of belt that moves past the camera; its frames are near-duplicates. The
parts lie on the stretch once; each frame is a window on it, seen through the same light, lens and
sensor with a little noise of its own. The same seed gives the same frames.

    >>> frame = next(generate(1, seed=7))
    >>> frame.pixels.shape
    (480, 640, 3)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.camera import Exposure, developed, light_field, take
from demo.drawing import Array, Lamp, Lighting, Sprite, cast_shadow
from demo.ground import rail
from demo.stretch import CLASSES, Litter, Mix, Stretch, lay, visible_boxes

WIDTH, HEIGHT = 640, 480

POOL = Mix(
    parts=(0.30, 0.22, 0.17, 0.10, 0.11, 0.10), crack=0.11, dent=0.08, crowd=5.0, hard=0.4, tail=0.4
)
"""The unlabelled pool: most sequences are ordinary; rare parts and defects come in the others."""

TRAINING = Mix(
    parts=(0.40, 0.31, 0.25, 0.025, 0.012, 0.004), crack=0.006, dent=0.004, crowd=7.0, hard=0.2
)
"""What the demo's detector has seen: the ordinary, hardly any of the tail."""

MIXED = Mix(parts=(0.36, 0.27, 0.21, 0.06, 0.06, 0.04), crack=0.05, dent=0.035, crowd=6.5, hard=0.4)
"""A little of everything in every sequence."""

BALANCED = replace(MIXED, parts=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), crack=0.15, dent=0.12)
"""Every class about as often: for measuring, and for the encoder."""


@dataclass(frozen=True)
class Frame:
    """One picture of the line.

    Attributes:
        jpeg: the picture as the camera saved it.
        pixels: (480, 640, 3) uint8 RGB, decoded from `jpeg`.
        xyxy: (N, 4) float32 boxes around what is visible, in pixels: left, top, right, bottom.
        class_ids: (N,) int64 indices into `CLASSES`.
        sequence: key of the stretch of belt it shows, such as line2_seq031.
        number: its place in the sequence, from 0.
        tags: what a person would say about the picture, such as "green fabric belt", "dim light".
    """

    jpeg: bytes
    pixels: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    sequence: str
    number: int
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name without ending, such as line2_seq031_f04."""
        return f"{self.sequence}_f{self.number:02d}"


@dataclass(frozen=True)
class Line:
    """One camera's place: what does not change from sequence to sequence.

    Attributes:
        belt: name of the ground.
        called: what a person calls the ground.
        lighting: the lamps.
        slope: change of light along x and y, per half picture width.
        white: (3,) white balance.
        rail: rows that a guide rail hides at the top; 0 for none.
    """

    belt: str
    called: str
    lighting: Lighting
    slope: tuple[float, float]
    white: tuple[float, float, float]
    rail: int


def _lamps(*lamps: tuple[float, float, float, float, float]) -> tuple[Lamp, ...]:
    return tuple(Lamp((x, y, z), power, width) for x, y, z, power, width in lamps)


LINES = (
    Line(
        belt="rubber",
        called="black rubber belt",
        lighting=Lighting(
            _lamps((-0.45, -0.5, 0.75, 0.95, 0.10), (0.5, 0.35, 0.8, 0.6, 0.12)), 0.26, 0.6
        ),
        slope=(-0.12, -0.06),
        white=(1.04, 1.0, 0.93),
        rail=38,
    ),
    Line(
        belt="fabric",
        called="green fabric belt",
        lighting=Lighting(
            _lamps((-0.75, 0.05, 0.62, 1.15, 0.14), (0.3, -0.3, 0.9, 0.35, 0.3)), 0.30, 0.55
        ),
        slope=(-0.24, 0.03),
        white=(0.97, 1.0, 1.05),
        rail=0,
    ),
    Line(
        belt="steel",
        called="brushed steel table",
        lighting=Lighting(
            _lamps((0.4, -0.62, 0.7, 0.9, 0.2), (-0.6, -0.1, 0.7, 0.5, 0.25)), 0.34, 0.5
        ),
        slope=(0.10, -0.14),
        white=(1.0, 1.0, 1.0),
        rail=0,
    ),
    Line(
        belt="links",
        called="grey link belt",
        lighting=Lighting(
            _lamps((0.55, 0.45, 0.72, 1.0, 0.12), (-0.5, -0.2, 0.8, 0.4, 0.2)), 0.30, 0.5
        ),
        slope=(0.14, 0.10),
        white=(1.03, 1.0, 0.96),
        rail=30,
    ),
)
"""The four camera places of the plant."""


@dataclass(frozen=True)
class _Conditions:
    """How a sequence is taken and what lies about, with the words for it."""

    exposure: Exposure
    litter: Litter
    shadow: float
    rust: float
    crowded: bool
    tags: tuple[str, ...]


def generate(
    count: int,
    seed: int,
    *,
    mix: Mix = POOL,
    lengths: tuple[int, int] = (5, 12),
    singles: float = 0.25,
) -> Iterator[Frame]:
    """`count` frames, sequence after sequence.

    Args:
        count: how many frames, at least 0.
        seed: the same seed gives the same frames, and fewer frames are a prefix of more.
        mix: what is on the line.
        lengths: shortest and longest sequence, in frames.
        singles: 0..1, share of sequences that are one frame long.
    """
    return islice(_frames(seed, mix, lengths, singles), count)


def _frames(seed: int, mix: Mix, lengths: tuple[int, int], singles: float) -> Iterator[Frame]:
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        place = int(rng.choice(len(LINES), p=(0.34, 0.3, 0.2, 0.16)))
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        length = 1 if rng.random() < singles else length
        key = f"line{place + 1}_seq{number:03d}"
        yield from _sequence(key, LINES[place], length, rng, mix)
        number += 1


def write_pool(folder: Path, count: int = 240, seed: int = 1, *, mix: Mix = POOL) -> None:
    """Write frames as a YOLO data set: `images/*.jpg`, `labels/*.txt`, `data.yaml`."""
    write_frames(folder, generate(count, seed, mix=mix))


def write_frames(folder: Path, frames: Iterator[Frame]) -> None:
    """Write the given frames as a YOLO data set in `folder`."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for frame in frames:
        (folder / "images" / f"{frame.name}.jpg").write_bytes(frame.jpeg)
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


def read_yolo_label(text: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (N, 4) xyxy in pixels and class numbers (N,) of a label file's text."""
    rows = np.asarray([line.split() for line in text.splitlines()], np.float64).reshape(-1, 5)
    half = rows[:, 3:] / 2
    corners = np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], axis=1)
    return (
        (corners * (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32),
        rows[:, 0].astype(np.int64),
    )


def _conditions(line: Line, mix: Mix, rng: np.random.Generator) -> _Conditions:
    gain, defocus, motion, noise = rng.uniform(0.85, 1.25), rng.uniform(0, 0.7), 0.0, 1.0
    litter = Litter(chips=int(rng.integers(0, 7)), oil=int(rng.integers(0, 3)))
    shadow, rust, crowded, cables = 0.0, 0.0, False, 0
    tags = [line.called]
    trouble = rng.random(8) < (mix.hard * np.asarray((0.35, 0.3, 0.3, 0.35, 0.35, 0.3, 0.3, 0.3)))
    if trouble[0]:
        gain, noise = rng.uniform(0.16, 0.4), rng.uniform(2.0, 3.4)
        tags.append("dim light")
    if trouble[1]:
        defocus = rng.uniform(2.0, 4.2)
        tags.append("out of focus")
    elif trouble[2]:
        motion = rng.uniform(7, 19)
        tags.append("motion blur")
    if trouble[3]:
        crowded = True
        tags.append("crowded")
    if trouble[4]:
        chip_count, oil_count = int(rng.integers(20, 45)), int(rng.integers(4, 9))
        litter = Litter(chips=chip_count, oil=oil_count, crumbs=220)
        tags.append("dirty with chips and oil")
    if trouble[5]:
        shadow = rng.uniform(0.45, 0.75)
        tags.append("a hard shadow")
    if trouble[6]:
        rust = rng.uniform(0.6, 1.0)
        tags.append("rusty parts")
    if trouble[7]:
        cables = 1
        tags.append("a cable")
    exposure = Exposure(gain, defocus, motion, noise, line.white, int(rng.integers(68, 93)))
    return _Conditions(exposure, replace(litter, cables=cables), shadow, rust, crowded, tuple(tags))


def _sequence(
    key: str, line: Line, length: int, rng: np.random.Generator, mix: Mix
) -> Iterator[Frame]:
    seen = _conditions(line, mix, rng)
    if mix.tail < 1.0 and rng.random() >= mix.tail:
        mix = replace(mix, parts=(*mix.parts[:3], 0.2 * mix.parts[3]), crack=0.0, dent=0.0)
    step = float(rng.uniform(2.5, 10.0))
    stretch = lay(
        (HEIGHT, WIDTH + int(step * (length - 1)) + 2),
        line.belt,
        line.lighting,
        mix,
        seen.litter,
        rng,
        crowded=seen.crowded,
        rust=seen.rust,
        scale=float(rng.uniform(1.15, 1.45)),
    )
    field = light_field((HEIGHT, WIDTH), line.slope, rng, seen.shadow)
    guide = None
    if line.rail:
        guide = rail(line.lighting, WIDTH + 80, line.rail, np.random.default_rng(line.rail))
        field = field * _rail_shadow(guide, line)
    for number in range(length):
        left = int(step * (length - 1 - number))
        light = _window(stretch, left, guide, line.rail) * field[..., None]
        exposure = replace(seen.exposure, gain=seen.exposure.gain * rng.normal(1.0, 0.008))
        xyxy, class_ids = visible_boxes(stretch, (left, line.rail, left + WIDTH, HEIGHT))
        jpeg = take(light, exposure, rng)
        yield Frame(jpeg, developed(jpeg), xyxy, class_ids, key, number, seen.tags)


def _rail_shadow(guide: Sprite, line: Line) -> Array:
    """(480, 640) share of the light that a rail lets through."""
    shade = np.ones((HEIGHT, WIDTH, 1), np.float32)
    cast_shadow(shade, guide, (-40, 0), line.lighting)
    shade[: line.rail] = 1.0
    return shade[..., 0]


def _window(stretch: Stretch, left: int, guide: Sprite | None, rows: int) -> Array:
    light = stretch.light[:, left : left + WIDTH]
    if guide is None:
        return light
    light = light.copy()
    light[:rows] = guide.rgb[:, 40 : 40 + WIDTH]
    return light
