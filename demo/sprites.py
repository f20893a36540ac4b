"""From a part to a sprite: turned, worn, perhaps damaged, and lit."""

from __future__ import annotations

import math

import numpy as np

from demo.drawing import SUPERSAMPLING, Array, Lighting, Sprite, cloud, shade, shrink, smoothstep
from demo.parts import NYLON, Part, cut_crack, press_dent

RUST = np.asarray((0.25, 0.115, 0.055), np.float32)


def _rusted(rgb: Array, height: Array, rng: np.random.Generator, amount: float) -> Array:
    level = float(np.clip(1.7 - 1.6 * amount, 0.1, 3.0))
    spots = smoothstep(level, level + 1.2, cloud(height.shape, 44.0, rng, 5))
    light = rgb.mean(axis=2, keepdims=True) + 0.12
    return rgb * (1 - spots[..., None]) + spots[..., None] * light * RUST * 1.9


def _damaged(height: Array, rng: np.random.Generator, defect: str | None) -> Array:
    """Damage `height` in place; returns where, 0..1."""
    if defect == "crack":
        return cut_crack(height, rng, float(SUPERSAMPLING))
    if defect == "dent":
        return press_dent(height, rng, float(SUPERSAMPLING))
    return np.zeros_like(height)


def draw(
    part: Part,
    angle: float,
    lighting: Lighting,
    rng: np.random.Generator,
    *,
    rust: float = 0.0,
    defect: str | None = None,
) -> Sprite:
    """Draw a part.

    Args:
        part: what to draw.
        angle: its turn in radians.
        lighting: the lamps over it.
        rng: source of chance for wear and defects.
        rust: 0 (none) to 1 (patches everywhere).
        defect: "crack", "dent" or None.

    Returns:
        A square sprite of about twice the part's extent, its defect (if any) in `marks`.
    """
    size = 2 * (math.ceil(part.extent) + 2) * SUPERSAMPLING
    grid = (np.arange(size, dtype=np.float32) - size / 2 + 0.5) / SUPERSAMPLING
    gx, gy = grid[None, :], grid[:, None]
    x = (gx * math.cos(angle) + gy * math.sin(angle)).astype(np.float32)
    y = (gy * math.cos(angle) - gx * math.sin(angle)).astype(np.float32)
    height = part.relief(x, y)
    solid = height > 0
    mask = _damaged(height, rng, defect)
    height = np.where(solid, np.maximum(height, 0.3), 0.0).astype(np.float32)
    rgb = shade(height, x, y, part.material, lighting, rng)
    if defect == "crack":
        rgb *= 1.0 - 0.88 * mask[..., None]
    if part.paint is not None:
        blue = part.paint(x, y)[..., None]
        rgb = rgb * (1 - blue) + blue * NYLON * (0.35 + 0.5 * rgb.mean(axis=2, keepdims=True))
    if rust > 0:
        rgb = _rusted(rgb, height, rng, rust)
    alpha = shrink(solid.astype(np.float32))
    light = shrink(rgb * solid[..., None]) / np.maximum(alpha, 1e-3)[..., None]
    marks = {} if defect is None else {defect: shrink(mask) > 0.3}
    return Sprite(light.astype(np.float32), alpha, shrink(height), marks)
