"""The things in the benchmark's scenes: outlines with details, each a little different every time.

A shape takes coordinates `x`, `y` (float32, (h, w), in units of its radius, so that all of it lies
in -1..1) and a source of chance, and returns two arrays:

- distance: about the signed distance to its outline in the same unit, negative inside;
- carving: how deep its surface is carved (above 0) or raised (below 0), 1 = its whole thickness.

Most things of a class are of its usual hue, some of any. Several classes of the pools come in pairs
of one hue that look alike, the second of which is rare in the long-tailed pools: coin and button,
leaf and feather, key and spoon, starfish and flower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo.drawing import Array, smoothstep

Shape = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]


@dataclass(frozen=True)
class Kind:
    """A sort of thing.

    Args:
        shape: draws its outline and details.
        hue: 0..1, its usual hue on the colour wheel (0 = red); None: any is as usual.
    """

    shape: Shape
    hue: float | None = None


def _disc(x: Array, y: Array, cx: float, cy: float, radius: float) -> Array:
    return np.hypot(x - cx, y - cy) - np.float32(radius)


def _box(x: Array, y: Array, half_x: float, half_y: float, corner: float = 0.0) -> Array:
    qx, qy = np.abs(x) - (half_x - corner), np.abs(y) - (half_y - corner)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)


def _rod(x: Array, y: Array, start: float, end: float, radius: Array | float) -> Array:
    """A rod along x with round ends."""
    return np.hypot(x - np.clip(x, start, end), y) - radius


def _lens(x: Array, y: Array, half_width: float) -> Array:
    """Two arcs that meet in points at x = -0.95 and x = 0.95."""
    offset = (0.9 - half_width**2) / (2 * half_width)
    return np.hypot(x, np.abs(y) + offset) - np.float32(half_width + offset)


def _line(far: Array, width: float) -> Array:
    """1 where `far` is 0, falling to 0 at `width`."""
    return smoothstep(width, 0.0, np.abs(far))


def _flat(x: Array) -> Array:
    return np.zeros_like(x)


def _coin(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    r = np.hypot(x, y)
    a, b, turn = rng.uniform(4, 7), rng.uniform(4, 7), rng.uniform(0, 6)
    relief = np.sin(a * x + turn) * np.sin(b * y - turn) * smoothstep(0.7, 0.55, r)
    return r - 0.95, 0.35 * relief - 0.45 * _line(r - 0.84, 0.1)


def _button(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    r = np.hypot(x, y)
    far, size = rng.uniform(0.24, 0.34), rng.uniform(0.12, 0.17)
    holes = _disc(np.abs(x), y, far, 0, size)
    if rng.random() < 0.6:
        holes = _disc(np.abs(x), np.abs(y), 0.75 * far, 0.75 * far, size)
    bowl = 0.5 * smoothstep(rng.uniform(0.6, 0.75), 0.5, r)
    return np.maximum(r - 0.95, -holes), bowl


def _leaf(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    y = y - rng.uniform(-0.25, 0.25) * (x * x - 0.3)
    width, wave = rng.uniform(0.36, 0.55), rng.uniform(0.0, 0.05)
    outline = _lens(x, y, width) + wave * np.abs(np.sin(9 * x))
    stem = _rod(x, y, -1.0, -0.7, 0.05)
    veins = _line(np.sin((x - 0.9 * np.abs(y)) * rng.uniform(11, 15)), 0.45)
    return np.minimum(outline, stem), 0.5 * veins + 0.7 * _line(y, 0.07)


def _feather(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    y = y - rng.uniform(-0.35, 0.35) * (x * x - 0.3)
    vane = _lens(0.72 * x - 0.22, y, rng.uniform(0.2, 0.32))
    cut = np.sin((x - 1.2 * np.abs(y)) * rng.uniform(7, 10) + rng.uniform(0, 6))
    vane = np.maximum(vane, (smoothstep(0.8, 1.0, cut) * np.abs(y) - 0.1) * 1.5)
    quill = _rod(x, y, -1.0, 0.8, 0.05)
    barbs = np.sin((x - 1.2 * np.abs(y)) * 38)
    return np.minimum(vane, quill), 0.18 * barbs - 0.8 * _line(y, 0.08)


def _key(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    size = rng.uniform(0.3, 0.4)
    bow = np.abs(_disc(x, y, size - 1.0, 0, 0.72 * size)) - 0.3 * size
    if rng.random() < 0.3:
        bow = np.abs(_box(x - size + 1.0, y, 0.8 * size, 0.8 * size, 0.1)) - 0.1
    shaft = _rod(x, y, 2 * size - 1.05, 0.9, 0.085)
    key = np.minimum(bow, shaft)
    for at in np.linspace(0.85, 0.85 - rng.uniform(0.3, 0.5), int(rng.integers(2, 4))):
        tooth = _box(x - at, y - 0.16, 0.075, rng.uniform(0.14, 0.24))
        key = np.minimum(key, tooth)
    return key, _flat(x)


def _spoon(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    wide, long = rng.uniform(0.24, 0.32), rng.uniform(0.36, 0.44)
    inside = np.hypot((x + 1 - long) / long, y / wide)
    handle = _rod(x, y, 2 * long - 1.1, 0.88, 0.05 + rng.uniform(0.03, 0.09) * smoothstep(0, 1, x))
    return np.minimum((inside - 1) * wide, handle), 0.9 * smoothstep(0.85, 0.3, inside)


def _star_radius(x: Array, y: Array, points: int, turn: float) -> tuple[Array, Array]:
    """Distance from the middle, and 0..1 how near the direction is to that of a point."""
    return np.hypot(x, y), 0.5 + 0.5 * np.cos(points * np.arctan2(y, x) + turn)


def _starfish(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    x = x + rng.uniform(-0.12, 0.12) * y * y
    r, near = _star_radius(x, y, 5, 0)
    inner = rng.uniform(0.28, 0.4)
    edge = inner + (0.97 - inner) * near ** rng.uniform(1.5, 2.4)
    bumps = np.sin(18 * r) * smoothstep(0.8, 1.0, near)
    return 0.6 * (r - edge), -0.35 * bumps


def _flower(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    r, near = _star_radius(x, y, int(rng.choice([5, 5, 6])), 0)
    inner = rng.uniform(0.45, 0.6)
    edge = inner + (0.97 - inner) * near ** rng.uniform(0.35, 0.6)
    middle = smoothstep(0.3, 0.2, r)
    return 0.8 * (r - edge), 0.45 * smoothstep(0.15, 0.0, near) - 0.6 * middle


def _die(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    outline = _box(x, y, 0.69, 0.69, rng.uniform(0.1, 0.25))
    eyes = {
        2: [(-1, -1), (1, 1)],
        3: [(-1, -1), (0, 0), (1, 1)],
        4: [(-1, -1), (1, 1), (-1, 1), (1, -1)],
        5: [(-1, -1), (1, 1), (-1, 1), (1, -1), (0, 0)],
        6: [(-1, -1), (1, 1), (-1, 1), (1, -1), (-1, 0), (1, 0)],
    }[int(rng.integers(2, 7))]
    carving = _flat(x)
    for u, v in eyes:
        carving = carving + smoothstep(0.18, 0.06, np.hypot(x - 0.36 * u, y - 0.36 * v))
    return outline, 1.3 * carving


def _shell(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    r, turn = np.hypot(x + 0.85, y), np.arctan2(y, x + 0.85)
    half, ribs = rng.uniform(0.72, 0.9), int(rng.integers(8, 12))
    edge = 1.6 * (1 - 0.18 * (turn / half) ** 2) + 0.05 * np.cos(ribs * np.pi * turn / half)
    fan = np.maximum(r - edge, r * np.sin(np.abs(turn) - half))
    hinge = _box(x + 0.8, y, 0.12, 0.3, 0.05)
    return np.minimum(fan, hinge), 0.55 * np.cos(ribs * np.pi * turn / half)


def _crescent(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    bite = _disc(x, y, rng.uniform(0.35, 0.5), 0, rng.uniform(0.72, 0.82))
    return np.maximum(_disc(x, y, 0, 0, 0.95), -bite), _flat(x)


def _heart(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    v = (y + 0.1) / rng.uniform(0.85, 1.0) + 0.65 * np.sqrt(np.abs(x))
    return 0.8 * (np.hypot(x, v - 0.3) - 0.9), _flat(x)


def _fish(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    body = _lens(1.25 * x + 0.28, y, rng.uniform(0.34, 0.5))
    tail = np.maximum(np.abs(y) - 0.95 * (x - 0.3), x - 0.9 + 0.25 * np.cos(5 * y))
    eye = smoothstep(0.12, 0.04, np.hypot(x + 0.65, y + 0.08))
    scales = np.sin(16 * x) * np.sin(16 * y) * smoothstep(-0.5, -0.3, x)
    return np.minimum(body, tail), 1.2 * eye + 0.25 * scales


def _drop(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    radius = rng.uniform(0.42, 0.55) * np.sqrt(np.clip((0.95 - x) / 1.4, 0, 1))
    body = np.hypot(np.minimum(x + 0.4, 0), y) - radius
    return np.maximum(body, x - 0.95), _flat(x)


def _cross(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    arm = rng.uniform(0.17, 0.28)
    return np.minimum(_box(x, y, 0.93, arm, 0.08), _box(x, y, arm, 0.93, 0.08)), _flat(x)


def _arrow(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    size = rng.uniform(0.5, 0.7)
    head = np.maximum(0.8 * (np.abs(y) * 0.9 + x - 0.95), 0.95 - size - x)
    return np.minimum(head, _box(x + 0.2, y, 0.75, rng.uniform(0.12, 0.2))), _flat(x)


def _bone(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    knob = rng.uniform(0.2, 0.26)
    ends = _disc(np.abs(x), np.abs(y), 0.92 - knob, 0.8 * knob, knob)
    return np.minimum(ends, _rod(x, y, -0.7, 0.7, rng.uniform(0.12, 0.17))), _flat(x)


def _ring(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    thick = rng.uniform(0.1, 0.2)
    return np.abs(_disc(x, y, 0, 0, 0.95 - thick)) - thick, _flat(x)


def _comb(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    back = _box(x, y + 0.28, 0.93, 0.14, 0.05)
    teeth = np.maximum(np.abs(np.sin(x * rng.uniform(9, 13))) - 0.55, -1.0) * 0.12
    teeth = np.maximum(teeth, _box(x, y, 0.9, 0.42))
    return np.minimum(back, teeth), _flat(x)


def _mushroom(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    cap = np.maximum(_disc(x, y, 0, 0, 0.95), x - rng.uniform(-0.25, 0.0))
    stalk = _rod(x, y, -0.2, 0.7, rng.uniform(0.18, 0.26))
    spots = smoothstep(0.6, 0.9, np.sin(7 * x + 1) * np.sin(7 * y))
    return np.minimum(cap, stalk), 0.4 * spots


def _flash(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    zigzag = rng.uniform(0.16, 0.26) * (4 * np.abs((1.3 * x) % 1.0 - 0.5) - 1)
    return np.maximum(np.abs(y - zigzag) - 0.3 * (1.1 - np.abs(x)), np.abs(x) - 0.95), _flat(x)


def _hourglass(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    waist = 0.1 + rng.uniform(0.5, 0.75) * np.abs(x)
    return np.maximum(0.8 * (np.abs(y) - waist), np.abs(x) - 0.85), 0.4 * _line(x, 0.08)


def _frame(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    thick = rng.uniform(0.08, 0.13)
    return np.abs(_box(x, y, 0.6, rng.uniform(0.4, 0.6))) - thick, _flat(x)


def _pebble(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    turn = np.arctan2(y, x)
    edge = rng.uniform(0.55, 0.9) + _flat(x)
    for waves in (2, 3, 5):
        edge = edge + rng.normal(0, 0.1 / waves) * np.cos(waves * turn + rng.uniform(0, 6.3))
    return np.hypot(x, y) - np.minimum(edge, 0.97), _flat(x)


def _stick(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    bent = y - rng.uniform(-0.3, 0.3) * (x * x - 0.3) - 0.04 * np.sin(rng.uniform(5, 11) * x)
    return _rod(x, bent, -0.9, 0.9, rng.uniform(0.05, 0.12)), _flat(x)


def _scrap(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    distance = _flat(x) - 9
    for turn in np.sort(rng.uniform(0, 2 * math.pi, 4)):
        side = x * math.cos(turn) + y * math.sin(turn) - rng.uniform(0.35, 0.75)
        distance = np.maximum(distance, side)
    return np.maximum(distance, np.hypot(x, y) - 0.95), 0.3 * np.sin(rng.uniform(2, 5) * x)


POOL_KINDS: dict[str, Kind] = {
    "coin": Kind(_coin, 0.12),
    "leaf": Kind(_leaf, 0.3),
    "key": Kind(_key, 0.58),
    "starfish": Kind(_starfish, 0.97),
    "die": Kind(_die, 0.75),
    "shell": Kind(_shell, 0.06),
    "button": Kind(_button, 0.12),
    "feather": Kind(_feather, 0.3),
    "spoon": Kind(_spoon, 0.58),
    "flower": Kind(_flower, 0.97),
}
"""The ten classes of the pools; in the long-tailed ones from the most common to the rarest."""

BASE_KINDS: dict[str, Kind] = {
    "crescent": Kind(_crescent, 0.14),
    "heart": Kind(_heart, 0.98),
    "fish": Kind(_fish, 0.55),
    "drop": Kind(_drop, 0.62),
    "cross": Kind(_cross, 0.02),
    "arrow": Kind(_arrow, 0.38),
    "bone": Kind(_bone, 0.1),
    "ring": Kind(_ring, 0.16),
    "comb": Kind(_comb, 0.85),
    "mushroom": Kind(_mushroom, 0.06),
    "flash": Kind(_flash, 0.18),
    "hourglass": Kind(_hourglass, 0.08),
    "frame": Kind(_frame, 0.45),
}
"""What the base model has learned before: none of the pools' classes."""

CLUTTER: tuple[Kind, ...] = (Kind(_pebble), Kind(_stick), Kind(_scrap))
"""What lies about and is no object."""
