"""What the parts lie on: four belts and tables, their wear, and the litter of a workshop."""

from __future__ import annotations

import math

import cv2
import numpy as np

from demo.drawing import (
    Array,
    Lighting,
    Material,
    Sprite,
    cloud,
    lit,
    normals,
    put_down,
    reflected,
    shade,
    shrink,
    smoothstep,
    streaks,
)

Shape = tuple[int, int]


def _relief_light(relief: Array, lighting: Lighting, scale: float) -> Array:
    """Matt light of a fine relief, about 1 where it is flat."""
    n = normals(relief, scale=scale)
    flat = (np.zeros(1, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32))
    return lit(n, lighting) / lit(flat, lighting)


def _tinted(value: Array, colour: tuple[float, float, float]) -> Array:
    return value[..., None] * np.asarray(colour, np.float32)


def rubber(shape: Shape, lighting: Lighting, rng: np.random.Generator) -> Array:
    """A black rubber belt: rough grain, greyed by dust, polished along its run."""
    grain = cloud(shape, 5.0, rng, 3)
    value = 0.055 * _relief_light(grain, lighting, 1.6)
    dust = 1.0 + 0.22 * cloud(shape, 150.0, rng, 4) + 0.14 * streaks(shape, 420.0, rng)
    value *= np.clip(dust, 0.35, 2.2)
    value += 0.012 * smoothstep(1.0, 2.6, cloud(shape, 90.0, rng, 5))
    return _tinted(value, (1.0, 0.98, 0.94))


def fabric(shape: Shape, lighting: Lighting, rng: np.random.Generator) -> Array:
    """A green PVC belt with a woven imprint and dirt rubbed into it."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    bend = 1.2 * cloud(shape, 200.0, rng, 1)
    weave = np.sin(2 * np.pi * (x + bend) / 6.3) * np.sin(2 * np.pi * (y + bend) / 5.4)
    relief = weave * (0.8 + 0.2 * cloud(shape, 60.0, rng, 2)) + 0.5 * cloud(shape, 4.0, rng, 2)
    value = 0.095 * _relief_light(relief, lighting, 0.8)
    dirt = smoothstep(0.3, 2.4, cloud(shape, 170.0, rng, 5) + 0.5 * streaks(shape, 500.0, rng))
    value *= 1.0 + 0.08 * cloud(shape, 120.0, rng, 3)
    clean = _tinted(value, (0.33, 0.92, 0.66))
    return clean * (1 - 0.6 * dirt[..., None]) + 0.6 * dirt[..., None] * _tinted(
        0.6 * value, (0.9, 0.85, 0.7)
    )


def steel(shape: Shape, lighting: Lighting, rng: np.random.Generator) -> Array:
    """A brushed steel slide, scratched and stained."""
    brush = 0.7 * streaks(shape, 130.0, rng) + 0.5 * streaks(shape, 40.0, rng)
    value = 0.30 * (1.0 + 0.085 * brush + 0.10 * cloud(shape, 260.0, rng, 3))
    rgb = _tinted(value, (0.97, 1.0, 1.02))
    scratch(rgb, rng, count=int(rng.integers(25, 60)))
    stain = smoothstep(0.7, 2.2, cloud(shape, 130.0, rng, 5))[..., None]
    return rgb * (1 - stain * np.asarray((0.22, 0.32, 0.42), np.float32))


def links(shape: Shape, lighting: Lighting, rng: np.random.Generator) -> Array:
    """A modular plastic belt: rows of grey-blue links with hinges between them."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    row, tooth = 96.0, 26.0
    at = x + rng.uniform(0, row)
    along = at - np.round(at / row) * row
    finger = np.abs(y / tooth - np.round(y / tooth)) * tooth
    side = 7.0 * (2.0 * (np.floor(y / tooth + 0.5) % 2) - 1.0)
    step = np.maximum(finger, np.maximum(np.abs(along) - 7.0, 0.0))
    groove = np.minimum(np.abs(along - side), step) - 1.1
    bars = np.abs(np.abs(along) - 0.36 * row)
    groove = np.minimum(groove, 0.8 + 0.3 * bars)
    relief = 2.5 * smoothstep(-1.0, 2.0, groove) + 0.25 * cloud(shape, 4.0, rng, 2)
    value = 0.23 * _relief_light(relief.astype(np.float32), lighting, 0.8)
    value *= 0.25 + 0.75 * smoothstep(-1.5, 1.5, groove.astype(np.float32))
    number = np.floor(at / row).astype(int)
    value *= (1.0 + 0.05 * rng.standard_normal(64))[number % 64].astype(np.float32)
    wear = 1.0 + 0.08 * cloud(shape, 190.0, rng, 4) + 0.05 * streaks(shape, 260.0, rng)
    rgb = _tinted(value * wear, (0.72, 0.86, 1.0))
    scratch(rgb, rng, count=int(rng.integers(10, 30)))
    dirt = 0.35 * smoothstep(0.4, 2.2, cloud(shape, 110.0, rng, 5))[..., None]
    return rgb * (1 - dirt * np.asarray((0.6, 0.8, 1.0), np.float32))


BELTS = {"rubber": rubber, "fabric": fabric, "steel": steel, "links": links}
"""Name of a ground -> its painter: (shape, lighting, rng) -> (h, w, 3) linear light."""


def scratch(rgb: Array, rng: np.random.Generator, count: int) -> None:
    """Draw thin light and dark scratches on `rgb` in place."""
    height, width = rgb.shape[:2]
    layer = np.zeros((height, width), np.float32)
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        turn, length = rng.normal(0.0, 0.5), rng.uniform(15, 130)
        bend = rng.normal(0, 0.15)
        middle = (x + 0.5 * length * math.cos(turn), y + 0.5 * length * math.sin(turn))
        end = (x + length * math.cos(turn + bend), y + length * math.sin(turn + bend))
        points = (np.asarray([(x, y), middle, end]) * 8).astype(np.int32)
        depth = float(rng.choice([0.30, 0.16, -0.16, -0.25]) * rng.uniform(0.4, 1.0))
        cv2.polylines(layer, [points], False, depth, 1, cv2.LINE_AA, shift=3)
    rgb *= 1.0 + cv2.GaussianBlur(layer, (0, 0), 0.55)[..., None]


def _tube(points: Array, radius: float, sagging: float, scale: int = 2) -> tuple[Array, Array]:
    """Height map of a tube along `points` (n, 2), and the (x, y) of its top left corner."""
    margin = radius + 4
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    size = np.ceil(high - low).astype(int) * scale
    line = np.full((size[1], size[0]), 255, np.uint8)
    path = ((points - low) * scale * 8).astype(np.int32)
    cv2.polylines(line, [path], False, 0, 1, cv2.LINE_8, shift=3)
    far = cv2.distanceTransform(line, cv2.DIST_L2, 5) / scale
    height = np.sqrt(np.maximum(radius * radius - far * far, 0.0))
    height = np.where(far < radius, height + sagging, 0.0).astype(np.float32)
    return height, low


def _tube_sprite(
    points: Array,
    radius: float,
    material: Material,
    lighting: Lighting,
    rng: np.random.Generator,
    sagging: float = 1.0,
) -> tuple[Sprite, tuple[int, int]]:
    height, low = _tube(points, radius, sagging)
    y, x = np.mgrid[: height.shape[0], : height.shape[1]].astype(np.float32)
    solid = (height > 0).astype(np.float32)
    rgb = shade(height, x, y, material, lighting, rng) * solid[..., None]
    alpha = shrink(solid)
    light = shrink(rgb) / np.maximum(alpha, 1e-3)[..., None]
    return Sprite(light, alpha, shrink(height), {}), (int(low[0]), int(low[1]))


def cable(canvas: Array, lighting: Lighting, rng: np.random.Generator) -> None:
    """Lay a sensor cable over a corner or across the picture, in place."""
    height, width = canvas.shape[:2]
    t = np.linspace(0, 1, 60)[:, None]
    start = np.asarray((rng.uniform(0, width), -20.0))
    end = np.asarray((start[0] + rng.normal(0, 260), height + 20.0))
    if rng.random() < 0.6:
        end = np.asarray((start[0] + rng.uniform(120, 330), -20.0))
    bow = np.asarray((rng.normal(0, 90), rng.uniform(60, 280)))
    middle = 0.5 * (start + end) + bow
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t * t * end
    points[:, 0] += 6 * np.sin(t[:, 0] * rng.uniform(3, 9) + rng.uniform(0, 6))
    colours = ((0.02, 0.02, 0.022), (0.025, 0.025, 0.03), (0.25, 0.03, 0.02), (0.30, 0.16, 0.02))
    material = Material(colours[int(rng.integers(4))], metal=0.12, rough=0.5)
    radius = rng.uniform(4.0, 6.5)
    sprite, corner = _tube_sprite(points, radius, material, lighting, rng, sagging=4.0)
    put_down(canvas, sprite, corner, lighting)


def chips(canvas: Array, lighting: Lighting, rng: np.random.Generator, count: int) -> None:
    """Scatter turning chips: small bright curls and slivers, in place."""
    height, width = canvas.shape[:2]
    for _ in range(count):
        t = np.linspace(0, 1, 24)
        turns, size = rng.exponential(0.5) + 0.08, rng.uniform(4, 13)
        angle = rng.uniform(0, 6.3) + turns * 2 * math.pi * t
        radius = size * (0.4 + 0.6 * t)
        drift = np.outer(t, rng.normal(0, 14, 2))
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + drift
        points += (rng.uniform(0, width), rng.uniform(0, height))
        shiny = ((0.75, 0.76, 0.8), (0.5, 0.48, 0.44), (0.34, 0.3, 0.27))
        material = Material(shiny[int(rng.integers(3))], metal=0.9, rough=0.6)
        thin = rng.uniform(0.7, 1.5)
        sprite, corner = _tube_sprite(points, thin, material, lighting, rng, rng.uniform(0, 3))
        if sprite.alpha.max() > 0.5:
            put_down(canvas, sprite, corner, lighting)


def oil(canvas: Array, lighting: Lighting, rng: np.random.Generator, count: int) -> None:
    """Spill oil: dark wet patches and drops with a glint, in place."""
    height, width = canvas.shape[:2]
    for _ in range(count):
        size = int(rng.choice([18, 26, 40, 90, 150]))
        left, top = int(rng.integers(-20, width - 10)), int(rng.integers(-20, height - 10))
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + size, width), min(top + size, height)
        if x1 - x0 < 8 or y1 - y0 < 8:
            continue
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
        level = 0.62 - np.hypot(x, y) + 0.16 * cloud((size, size), size / 2.2, rng, 3)
        wet = smoothstep(0.0, 0.09 if size > 60 else 0.2, level)
        body = cv2.GaussianBlur(wet, (0, 0), size / 16) * size * 0.05
        glint = np.maximum(reflected(normals(body, 1.0), lighting, 0.25) - lighting.ambient, 0)
        spot = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        dark = 1 - wet[spot][..., None] * np.asarray((0.45, 0.52, 0.62), np.float32)
        area = canvas[y0:y1, x0:x1]
        area *= dark
        area += (0.10 * wet * glint)[spot][..., None] * np.asarray((1.0, 0.95, 0.85), np.float32)


def crumbs(canvas: Array, rng: np.random.Generator, count: int) -> None:
    """Strew dust and grit, in place."""
    height, width = canvas.shape[:2]
    layer = np.zeros((height, width), np.float32)
    for _ in range(count):
        at = (int(rng.integers(0, width * 8)), int(rng.integers(0, height * 8)))
        size = int(8 * rng.uniform(0.4, 1.6))
        cv2.circle(layer, at, size, float(rng.choice([0.5, 0.9, -0.5])), -1, cv2.LINE_AA, shift=3)
    layer = cv2.GaussianBlur(layer, (0, 0), 0.6)[..., None]
    canvas *= 1.0 + np.minimum(layer, 0.0) * 0.9
    canvas += np.maximum(layer, 0.0) * 0.12


def rail(lighting: Lighting, width: int, depth: int, rng: np.random.Generator) -> Sprite:
    """An aluminium guide rail, `width` x `depth` pixels, with a groove and screw heads."""
    y, x = np.mgrid[: depth * 2, : width * 2].astype(np.float32) / 2
    edge = np.minimum(y + 6, depth - y)
    height = 16.0 * smoothstep(0, 3.0, edge) - 5.0 * smoothstep(2.5, 1.5, np.abs(y - 0.55 * depth))
    spacing, start = rng.uniform(150, 230), rng.uniform(0, 90)
    for at in np.arange(start, width, spacing):
        far = np.hypot(x - at, y - 0.25 * depth)
        head = 3.0 * smoothstep(7.0, 5.5, far) - 3.0 * smoothstep(3.2, 2.6, far)
        height = height + head
    material = Material((0.62, 0.63, 0.65), metal=0.75, rough=0.5, grain="brushed")
    height = np.maximum(height, 0.3).astype(np.float32)
    rgb = shade(height, x, np.mod(y, 180.0), material, lighting, rng)
    return Sprite(shrink(rgb), np.ones((depth, width), np.float32), shrink(height), {})
