"""Noise, relief shading and compositing: what every drawn thing in the demo is made of.

Images are float32 RGB in *linear* light, about 0 to 1. Reliefs are float32 height maps in
pixels (0 = nothing there). Axes: x to the right, y down, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SUPERSAMPLING = 2
"""Parts are drawn this many times larger and averaged down, so edges come out smooth."""


@dataclass(frozen=True)
class Lamp:
    """One light that metal reflects.

    Attributes:
        direction: (3,) vector towards the lamp; need not be of unit length.
        power: radiance at the centre of its reflection.
        width: spread of its reflection; larger is softer (0.1 a spot, 0.3 a panel).
    """

    direction: tuple[float, float, float]
    power: float
    width: float


@dataclass(frozen=True)
class Lighting:
    """The lamps over a line, and how soft and long the shadows are.

    Attributes:
        lamps: the first one is the key light: it throws the shadows.
        ambient: radiance from everywhere else.
        shadow: 0..1, how dark a cast shadow is at its core.
    """

    lamps: tuple[Lamp, ...]
    ambient: float
    shadow: float


@dataclass(frozen=True)
class Material:
    """How a surface answers light.

    Attributes:
        colour: (3,) linear reflectance.
        metal: 0..1, share of mirror-like reflection; the rest is matt.
        rough: 0..1, spread of the small normals (grain of the surface).
        grain: direction-dependent finish: "cast", "brushed" or "turned" (rings about the centre).
    """

    colour: tuple[float, float, float]
    metal: float
    rough: float
    grain: str = "cast"


@dataclass(frozen=True)
class Sprite:
    """A drawn part, ready to be put down.

    Attributes:
        rgb: (h, w, 3) linear light, not premultiplied.
        alpha: (h, w) coverage 0..1.
        height: (h, w) relief in pixels.
        marks: name of a defect -> (h, w) bool, where it is visible on the part.
    """

    rgb: Array
    alpha: Array
    height: Array
    marks: dict[str, NDArray[np.bool_]]


def cloud(shape: tuple[int, int], cell: float, rng: np.random.Generator, octaves: int = 3) -> Array:
    """Smooth noise of zero mean and about unit spread; `cell` is its largest grain in pixels."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    weight = 1.0
    for _ in range(octaves):
        rows, columns = int(height / cell) + 3, int(width / cell) + 3
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        size = (max(width, int(columns * cell)), max(height, int(rows * cell)))
        total += weight * cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[:height, :width]
        weight *= 0.55
        cell = max(cell / 2.2, 1.0)
    return total * np.float32(1.1)


def streaks(shape: tuple[int, int], length: float, rng: np.random.Generator) -> Array:
    """Horizontal streaks of about unit spread, `length` pixels long: brushing, wear of a belt."""
    height, width = shape
    grid = rng.standard_normal((height, int(width / length) + 3), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between (`low` may exceed `high`)."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def normals(height: Array, scale: float = 1.0, limit: float = 2.5) -> tuple[Array, Array, Array]:
    """Unit normals (x, y, z) of a relief; slopes are cut at `limit`."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale / 8)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale / 8)
    steep = np.maximum(np.sqrt(dx * dx + dy * dy) / limit, 1.0)
    dx, dy = dx / steep, dy / steep
    length = 1.0 / np.sqrt(dx * dx + dy * dy + 1.0)
    return -dx * length, -dy * length, length


def reflected(n: tuple[Array, Array, Array], lighting: Lighting, sharp: float = 1.0) -> Array:
    """What a mirror with normals `n` shows a camera straight above: lamps over a dim hall."""
    nx, ny, nz = n
    rx, ry, rz = 2 * nz * nx, 2 * nz * ny, 2 * nz * nz - 1
    value = lighting.ambient * (0.35 + 0.65 * smoothstep(-0.6, 0.9, rz))
    for lamp in lighting.lamps:
        x, y, z = np.asarray(lamp.direction) / np.linalg.norm(lamp.direction)
        facing = rx * x + ry * y + rz * z
        value = value + lamp.power * np.exp((facing - 1.0) / (lamp.width * sharp))
    return value.astype(np.float32)


def lit(n: tuple[Array, Array, Array], lighting: Lighting) -> Array:
    """What a matt surface with normals `n` sends back."""
    nx, ny, nz = n
    value = np.full_like(nz, lighting.ambient) * (0.5 + 0.5 * nz)
    for lamp in lighting.lamps:
        x, y, z = np.asarray(lamp.direction) / np.linalg.norm(lamp.direction)
        value += 0.55 * lamp.power * np.maximum(nx * x + ny * y + nz * z, 0.0)
    return value.astype(np.float32)


def finish(
    material: Material, x: Array, y: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Small slopes (x, y) that the finish adds to a surface, and its blotches (mean 1)."""
    shape = x.shape
    grain = material.rough * 0.16
    if material.grain == "turned":
        radius = np.sqrt(x * x + y * y)
        rings = np.interp(radius, np.arange(400), rng.standard_normal(400)).astype(np.float32)
        inverse = 1.0 / np.maximum(radius, 1.0)
        sx, sy = rings * x * inverse * grain, rings * y * inverse * grain
    elif material.grain == "brushed":
        sx = np.zeros(shape, np.float32)
        sy = np.interp(y + 0.02 * x, np.arange(-200, 200), rng.standard_normal(400))
        sy = sy.astype(np.float32) * grain
    else:
        sx = cloud(shape, 3.0, rng, 2) * grain
        sy = cloud(shape, 3.0, rng, 2) * grain
    wave = 0.04 + 0.06 * material.rough
    sx = sx + cloud(shape, 38.0, rng, 2) * wave
    sy = sy + cloud(shape, 38.0, rng, 2) * wave
    blotch = 1.0 + 0.12 * cloud(shape, 30.0, rng, 4) + 0.05 * cloud(shape, 3.0, rng, 1)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    across = (x * np.cos(turn) + y * np.sin(turn)) / (float(np.abs(x).max()) + 1.0)
    blotch = blotch * (1.0 + rng.uniform(0.1, 0.4) * across)
    return sx, sy, np.clip(blotch, 0.35, 1.6).astype(np.float32)


def shade(
    height: Array,
    x: Array,
    y: Array,
    material: Material,
    lighting: Lighting,
    rng: np.random.Generator,
) -> Array:
    """(h, w, 3) light from a relief of one material; `x`, `y` are part coordinates in pixels."""
    scale = SUPERSAMPLING
    nx, ny, nz = normals(height, scale=float(scale))
    sx, sy, blotch = finish(material, x, y, rng)
    nx, ny = nx + sx, ny + sy
    length = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
    n = (nx * length, ny * length, nz * length)
    mirror = reflected(n, lighting, sharp=0.5 + 1.5 * material.rough)
    mixed = material.metal * mirror + (1.0 - material.metal) * lit(n, lighting)
    hollow = cv2.GaussianBlur(height, (0, 0), 3.0 * scale) - height
    mixed *= np.clip(1.0 - 0.10 * np.maximum(hollow, 0.0), 0.35, 1.0) * blotch
    return mixed[..., None] * np.asarray(material.colour, np.float32)


def shrink(image: Array) -> Array:
    """Average a supersampled image down to its final size."""
    height, width = image.shape[:2]
    size = (width // SUPERSAMPLING, height // SUPERSAMPLING)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def placed(
    canvas: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a canvas and of a sprite of `size` (h, w) that meet at `corner` (x, y)."""
    left, top = corner
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size[1], canvas[1]), min(top + size[0], canvas[0])
    x1, y1 = max(x1, x0), max(y1, y0)
    return (
        (slice(y0, y1), slice(x0, x1)),
        (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)),
    )


def cast_shadow(canvas: Array, sprite: Sprite, corner: tuple[int, int], lighting: Lighting) -> None:
    """Darken `canvas` in place where the sprite keeps the light off it."""
    pad = 28
    alpha = cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    tall = float(np.percentile(sprite.height[sprite.alpha > 0.5], 80))
    dx, dy, dz = lighting.lamps[0].direction
    reach = min(tall / max(dz, 0.2), 22.0)
    matrix = np.asarray([[1, 0, -dx * reach], [0, 1, -dy * reach]], np.float32)
    thrown = cv2.warpAffine(alpha, matrix, (alpha.shape[1], alpha.shape[0]))
    half = cv2.warpAffine(alpha, 0.5 * matrix + [[0.5, 0, 0], [0, 0.5, 0]], alpha.shape[::-1])
    thrown = cv2.GaussianBlur(np.maximum(thrown, half), (0, 0), 1.2 + 0.16 * tall)
    contact = cv2.GaussianBlur(alpha, (0, 0), 2.0 + 0.10 * tall)
    keep = (1.0 - lighting.shadow * thrown) * (1.0 - 0.45 * contact)
    there, here = placed(canvas.shape[:2], alpha.shape, (corner[0] - pad, corner[1] - pad))
    canvas[there] *= keep[here][..., None]


def put_down(canvas: Array, sprite: Sprite, corner: tuple[int, int], lighting: Lighting) -> None:
    """Composite a sprite on `canvas` in place, shadow first; `corner` is its top left (x, y)."""
    cast_shadow(canvas, sprite, corner, lighting)
    there, here = placed(canvas.shape[:2], sprite.alpha.shape, corner)
    alpha = sprite.alpha[here][..., None]
    canvas[there] = canvas[there] * (1.0 - alpha) + sprite.rgb[here] * alpha
