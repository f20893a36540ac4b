"""The machined parts: each is a relief over its own coordinates, and a material.

A relief takes `x`, `y` (float32, pixels, origin at the middle of the part) and returns the height
in pixels, 0 where the part is not. Sizes are in pixels of the finished picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from demo.drawing import Array, Material

ZINC = Material((0.80, 0.82, 0.86), metal=0.85, rough=0.45)
YELLOW_ZINC = Material((0.80, 0.70, 0.42), metal=0.8, rough=0.5)
STAINLESS = Material((0.86, 0.84, 0.80), metal=0.92, rough=0.25)
BLACK_OXIDE = Material((0.16, 0.16, 0.17), metal=0.6, rough=0.6)
BRASS = Material((0.86, 0.64, 0.28), metal=0.85, rough=0.35)
CAST_STEEL = Material((0.52, 0.51, 0.50), metal=0.7, rough=0.9)
COPPER = Material((0.80, 0.46, 0.30), metal=0.8, rough=0.4)
PAINTED = Material((0.05, 0.06, 0.07), metal=0.18, rough=0.7)
PRIMER = Material((0.30, 0.07, 0.05), metal=0.10, rough=0.7)
NYLON = np.asarray((0.10, 0.22, 0.55), np.float32)


@dataclass(frozen=True)
class Part:
    """One thing to draw.

    Attributes:
        name: its class.
        extent: no point of the part is further from its middle, in pixels.
        relief: (x, y) -> height, all float32 of one shape.
        material: what it is made of.
        paint: optional (x, y) -> (h, w) mask of a blue nylon insert.
    """

    name: str
    extent: float
    relief: Callable[[Array, Array], Array]
    material: Material
    paint: Callable[[Array, Array], Array] | None = None


def _finished(material: Material, grain: str) -> Material:
    return Material(material.colour, material.metal, material.rough, grain)


def _pick(rng: np.random.Generator, *materials: Material) -> Material:
    return materials[int(rng.integers(len(materials)))]


def plate(distance: Array, thickness: float, bevel: float) -> Array:
    """Height of a plate with rounded edges; `distance` is signed, negative inside."""
    t = np.clip(-distance / bevel, 0.0, 1.0)
    round_edge = np.sqrt(1.0 - (1.0 - t) ** 2)
    return np.where(distance < 0, thickness * (0.35 + 0.65 * round_edge), 0.0).astype(np.float32)


def _hexagon(x: Array, y: Array, across: float) -> Array:
    """Signed distance to a hexagon with `across` pixels between flats."""
    q = np.maximum(np.abs(y), np.abs(y) * 0.5 + np.abs(x) * (math.sqrt(3) / 2))
    return q - across / 2


def _box(x: Array, y: Array, half_x: float, half_y: float, radius: float) -> Array:
    """Signed distance to a rectangle with rounded corners."""
    qx, qy = np.abs(x) - half_x + radius, np.abs(y) - half_y + radius
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - radius


def _shank(x: Array, y: Array, start: float, end: float, radius: float, pitch: float) -> Array:
    """A threaded rod along x from `start` to `end`; its first part is smooth."""
    smooth_until = start + 0.22 * (end - start)
    turn = (x + 0.5 * pitch * np.clip(y / radius, -1, 1)) / pitch
    tooth = np.abs(turn - np.floor(turn) - 0.5) * 2.0
    threaded = smooth(x, smooth_until)
    tip = np.clip((end - x) / (0.6 * radius), 0.0, 1.0)
    r = radius * (0.72 + 0.28 * tip) - 0.30 * pitch * tooth * threaded
    return np.where(
        (x >= start) & (x <= end) & (np.abs(y) < r),
        np.sqrt(np.maximum(r * r - y * y, 0.0)) + radius * 0.9,
        0.0,
    )


def smooth(x: Array, edge: float) -> Array:
    """A step of 3 pixels from 0 to 1 at `edge`."""
    return np.clip((x - edge) / 3.0 + 0.5, 0.0, 1.0)


def bolt(rng: np.random.Generator, scale: float) -> Part:
    """A bolt lying on its side: hexagon head, flanged head or socket cap."""
    radius = rng.uniform(8.0, 11.0) * scale
    length = rng.uniform(6.0, 10.0) * radius
    head, wide = rng.uniform(1.1, 1.5) * radius, rng.uniform(1.75, 2.0) * radius
    socket, flange = rng.random() < 0.3, rng.random() < 0.35
    pitch = rng.uniform(3.6, 4.6) * scale
    left = -(length + head) / 2
    facet = rng.uniform(-0.25, 0.25)

    def relief(x: Array, y: Array) -> Array:
        rod = _shank(x, y, left + head, -left, radius, pitch)
        edge = np.minimum(x - left, left + head - x)
        inside = (edge > 0) & (np.abs(y) < wide)
        if socket:
            knurl = 0.5 * np.abs(np.sin(y * 1.5 / scale))
            top = np.sqrt(np.maximum(wide * wide - y * y, 0.0)) - knurl
        else:
            middle = 0.87 * wide - 0.12 * np.abs(y - facet * wide)
            top = np.minimum(middle, 1.45 * (wide - np.abs(y)) + 0.15 * wide)
        top = top * (0.72 + 0.28 * np.clip(edge / (0.35 * head), 0, 1))
        cap = np.where(inside, np.maximum(top, 1.0) + radius * 0.9, 0.0)
        if flange:
            ring = (np.abs(x - left - head) < 0.16 * head) & (np.abs(y) < 1.22 * wide)
            round_top = np.sqrt(np.maximum((1.22 * wide) ** 2 - y * y, 0.0))
            cap = np.maximum(cap, np.where(ring, round_top, 0.0))
        return np.maximum(rod, cap).astype(np.float32)

    material = _pick(rng, ZINC, ZINC, STAINLESS, YELLOW_ZINC, BLACK_OXIDE)
    extent = math.hypot(-left, 1.3 * wide) + 2
    return Part("bolt", extent, relief, material)


def nut(rng: np.random.Generator, scale: float) -> Part:
    """A hexagon nut, plain, flanged or with a nylon ring."""
    across = rng.uniform(40, 56) * scale
    bore = across * rng.uniform(0.26, 0.31)
    kind = rng.choice(["plain", "plain", "flange", "nylon"])
    thick = 0.32 * across

    def relief(x: Array, y: Array) -> Array:
        r = np.hypot(x, y)
        body = plate(_hexagon(x, y, across), thick, 2.0 * scale)
        chamfer = thick - np.maximum(r - 0.485 * across, 0.0) * 0.75
        body = np.where(body > 0, np.minimum(body, chamfer), 0.0)
        if kind == "flange":
            skirt = thick * 0.45 - np.maximum(r - 0.5 * across, 0) * 0.35
            body = np.maximum(body, np.where(r < 0.66 * across, np.maximum(skirt, 1.0), 0.0))
        if kind == "nylon":
            rise = np.where(r < 0.42 * across, thick * 1.15 + 0.5 * np.cos(r * 0.3), 0.0)
            body = np.maximum(body, rise)
        countersink = np.minimum(body, thick - np.maximum(1.18 * bore - r, 0.0) * 1.3)
        thread = thick * 0.45 + 1.3 * np.sin((bore - r) * 2.2 + np.arctan2(y, x))
        rim = np.where(r > 0.80 * bore, np.maximum(thread, 0.5), 0.0)
        return np.where(r > bore, countersink, rim).astype(np.float32)

    def insert(x: Array, y: Array) -> Array:
        r = np.hypot(x, y)
        return ((r > 0.8 * bore) & (r < 1.25 * bore)).astype(np.float32)

    material = _finished(_pick(rng, ZINC, ZINC, STAINLESS, YELLOW_ZINC, BRASS), "turned")
    return Part("nut", 0.68 * across + 2, relief, material, insert if kind == "nylon" else None)


def washer(rng: np.random.Generator, scale: float) -> Part:
    """A flat washer, sometimes a wide one."""
    outer = rng.uniform(24, 38) * scale
    inner = outer * rng.uniform(0.36, 0.58)
    thick = rng.uniform(2.4, 4.2) * scale
    tilt = rng.uniform(-0.02, 0.02, 2)

    def relief(x: Array, y: Array) -> Array:
        r = np.hypot(x, y)
        height = plate(np.maximum(r - outer, inner - r), thick, 2.2 * scale)
        return np.where(height > 0, height + tilt[0] * x + tilt[1] * y, 0.0).astype(np.float32)

    material = _pick(rng, ZINC, ZINC, STAINLESS, YELLOW_ZINC, COPPER)
    return Part(
        "washer", outer + 2, relief, _finished(material, str(rng.choice(["turned", "cast"])))
    )


def gear(rng: np.random.Generator, scale: float) -> Part:
    """A spur gear with hub and keyway, sometimes with lightening holes."""
    outer = rng.uniform(46, 68) * scale
    teeth = int(rng.integers(16, 30))
    depth = 2.3 * outer / teeth * 1.2
    bore, hub = outer * rng.uniform(0.15, 0.2), outer * rng.uniform(0.32, 0.42)
    holes = int(rng.choice([0, 0, 4, 5, 6]))
    thick = rng.uniform(9, 13) * scale

    def relief(x: Array, y: Array) -> Array:
        r, angle = np.hypot(x, y), np.arctan2(y, x)
        wave = np.cos(angle * teeth)
        edge = outer - depth * np.clip(0.5 - 1.3 * wave, 0.0, 1.0)
        body = plate(r - edge, thick, 2.0 * scale)
        web = (r < outer - depth - 6 * scale) & (r > hub)
        body = body - 0.35 * thick * np.where(web, np.clip((r - hub) / 2, 0, 1), 0.0)
        body = np.where(r < hub, thick * 1.25, body)
        for k in range(holes):
            at = 2 * math.pi * (k + 0.5) / holes
            middle = 0.5 * (hub + outer - depth - 6 * scale)
            far = np.hypot(x - middle * math.cos(at), y - middle * math.sin(at))
            body = np.where(far < 0.105 * outer, 0.0, body)
        key = (np.abs(y) < 0.32 * bore) & (x > 0) & (x < 1.4 * bore)
        return np.where((r < bore) | key, 0.0, body).astype(np.float32)

    material = _finished(_pick(rng, CAST_STEEL, CAST_STEEL, ZINC, BRASS), "turned")
    return Part("gear", outer + 2, relief, material)


def bracket(rng: np.random.Generator, scale: float) -> Part:
    """A sheet-metal bracket, L- or T-shaped or straight, with holes and a slot, one edge folded."""
    long, wide = rng.uniform(58, 78) * scale, rng.uniform(15, 20) * scale
    kind = rng.choice(["L", "L", "T", "bar"])
    arm = rng.uniform(0.55, 0.9) * long
    at = {"L": -long + wide, "T": 0.0, "bar": 0.0}[str(kind)]
    thick, fold = 4.0 * scale, rng.random() < 0.6
    hole = 0.34 * wide

    def relief(x: Array, y: Array) -> Array:
        y = y + 0.3 * arm if kind != "bar" else y
        shape = _box(x, y, long, wide, 5 * scale)
        if kind != "bar":
            shape = np.minimum(shape, _box(x - at, y - arm / 2, wide, arm / 2 + wide, 5 * scale))
            shape = np.maximum(
                shape, _box(x - at, y - arm, wide * 0.45, hole * 0.55, hole * 0.5) * -1
            )
        shape = np.maximum(shape, hole - np.hypot(x - long + wide, y))
        slot = _box(x + 0.35 * long * (kind != "L"), y, hole * 1.6, hole * 0.6, hole * 0.6)
        shape = np.maximum(shape, -slot)
        height = plate(shape, thick, 1.6 * scale)
        if fold:
            up = np.clip((-y - 0.62 * wide) / (0.2 * wide), 0, 1)
            height = np.where(height > 0, height + 13 * scale * up * up * (3 - 2 * up), 0.0)
        return height.astype(np.float32)

    material = _finished(_pick(rng, ZINC, ZINC, PAINTED, PRIMER, STAINLESS), "brushed")
    extent = math.hypot(long, wide) + 2 if kind == "bar" else math.hypot(long, arm + wide) + 2
    return Part("bracket", extent, relief, material)


def spring(rng: np.random.Generator, scale: float) -> Part:
    """A compression spring on its side."""
    radius = rng.uniform(13, 18) * scale
    wire = rng.uniform(2.3, 3.2) * scale
    coils = int(rng.integers(6, 10))
    pitch = rng.uniform(3.2, 4.4) * wire
    half = coils * pitch / 2

    def relief(x: Array, y: Array) -> Array:
        step = math.hypot(float(x[0, 1] - x[0, 0]), float(x[1, 0] - x[0, 0]))
        along = (x[0, 1] - x[0, 0]) / step, (x[1, 0] - x[0, 0]) / step
        size, r = x.shape[0], int(wire / step) + 1
        yy, xx = np.mgrid[-r : r + 1, -r : r + 1] * step
        ball = np.sqrt(np.maximum(wire * wire - xx * xx - yy * yy, 0.0))
        height = np.zeros_like(x)
        for phi in np.arange(0, coils * 2 * math.pi, 0.11):
            px, py = phi * pitch / (2 * math.pi) - half, radius * math.cos(phi)
            pz = radius * (1 + math.sin(phi)) + wire
            column = round(size / 2 + (px * along[0] - py * along[1]) / step)
            row = round(size / 2 + (px * along[1] + py * along[0]) / step)
            spot = (slice(row - r, row + r + 1), slice(column - r, column + r + 1))
            if min(row, column) >= r and max(row, column) + r < size:
                stamp = np.where(ball > 0, ball + pz, 0.0)
                height[spot] = np.maximum(height[spot], stamp)
        return height.astype(np.float32)

    material = _pick(rng, ZINC, STAINLESS, BLACK_OXIDE, YELLOW_ZINC)
    return Part("spring", math.hypot(half, radius) + 2 * wire + 2, relief, material)


MAKERS: dict[str, Callable[[np.random.Generator, float], Part]] = {
    "bolt": bolt,
    "nut": nut,
    "washer": washer,
    "gear": gear,
    "bracket": bracket,
    "spring": spring,
}
"""Class name -> maker of a part; `scale` 1 is a bolt of about 100 pixels."""


def crack_path(inside: Array, rng: np.random.Generator, reach: float) -> list[tuple[int, int]]:
    """A jagged line from the body of a part outwards.

    Args:
        inside: (h, w) distance to the nearest edge of the part, 0 outside.
        rng: source of chance.
        reach: longest crack, in pixels of `inside`.

    Returns:
        The points (x, y) of the line.
    """
    deep = np.argwhere(inside > 0.55 * inside.max())
    row, column = deep[int(rng.integers(len(deep)))]
    heading = rng.uniform(0, 2 * math.pi)
    points = [(int(column), int(row))]
    x, y, gone = float(column), float(row), 0.0
    while gone < reach:
        step = rng.uniform(3.0, 8.0)
        turn = heading + rng.normal(0.0, 0.65)
        x, y, gone = x + step * math.cos(turn), y + step * math.sin(turn), gone + step
        off = not (0 <= int(y) < inside.shape[0] and 0 <= int(x) < inside.shape[1])
        points.append((int(x), int(y)))
        if off or inside[int(y), int(x)] <= 0:
            break
    return points


def cut_crack(height: Array, rng: np.random.Generator, scale: float) -> Array:
    """Groove `height` in place with a crack; returns its mask, 0..1."""
    inside = cv2.distanceTransform((height > 0).astype(np.uint8), cv2.DIST_L2, 3)
    points = crack_path(inside, rng, reach=rng.uniform(50, 90) * scale)
    line = np.zeros(height.shape, np.uint8)
    middle = max(len(points) * 2 // 3, 2)
    cv2.polylines(line, [np.asarray(points, np.int32)], False, 255, 2, cv2.LINE_AA)
    cv2.polylines(line, [np.asarray(points[:middle], np.int32)], False, 255, 4, cv2.LINE_AA)
    mask = line.astype(np.float32) / 255 * (height > 0)
    height -= np.minimum(mask * 6.0, height * 0.8)
    return mask


def press_dent(height: Array, rng: np.random.Generator, scale: float) -> Array:
    """Press a dent into `height` in place; returns its mask, 0..1."""
    inside = cv2.distanceTransform((height > 0).astype(np.uint8), cv2.DIST_L2, 3)
    deep = np.argwhere(inside > 0.6 * inside.max())
    row, column = deep[int(rng.integers(len(deep)))]
    radius = rng.uniform(13, 22) * scale
    y, x = np.mgrid[: height.shape[0], : height.shape[1]].astype(np.float32)
    turn = rng.uniform(0, math.pi)
    u = (x - column) * math.cos(turn) + (y - row) * math.sin(turn)
    v = ((y - row) * math.cos(turn) - (x - column) * math.sin(turn)) * rng.uniform(1.0, 1.7)
    far = (u * u + v * v) / (radius * radius)
    bowl = np.exp(-far * 1.6) - 0.28 * np.exp(-((np.sqrt(far) - 1.15) ** 2) * 9)
    height -= np.minimum(bowl * radius * 0.42, height * 0.9).astype(np.float32) * (height > 0)
    return ((far < 1.1) & (height > 0)).astype(np.float32)
