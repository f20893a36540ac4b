"""What the benchmark's objects lie on. A ground takes a shape (h, w) in pixels and a source of
chance, and returns (h, w, 3) float32 linear light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo.drawing import Array, cloud, smoothstep, streaks

Ground = Callable[[tuple[int, int], np.random.Generator], Array]


def _tinted(value: Array, colour: tuple[float, float, float], rng: np.random.Generator) -> Array:
    tint = np.asarray(colour) * rng.uniform(0.85, 1.15, 3)
    return (np.clip(value, 0.15, 2.2)[..., None] * tint).astype(np.float32)


def _sand(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    value = 1 + 0.16 * cloud(shape, 2.0, rng, 1) + 0.14 * cloud(shape, 40.0, rng, 3)
    return _tinted(value, (0.42, 0.33, 0.22), rng)


def _wood(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    grain = streaks(shape, 60.0, rng) * 0.12 + cloud(shape, 50.0, rng, 2) * 0.1
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + 3 * cloud(shape, 70.0, rng, 1)
    value = 1 + grain + 0.1 * np.sin(rows * rng.uniform(0.3, 0.7))
    plank = rng.uniform(35, 70)
    gap = np.abs(np.arange(shape[0]) % plank - plank / 2)[:, None] < 1.0
    wood = _tinted(value * np.where(gap, 0.35, 1.0), (0.36, 0.2, 0.1), rng)
    return np.ascontiguousarray(wood.swapaxes(0, 1)) if rng.random() < 0.5 else wood


def _cloth(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    bend = 1.5 * cloud(shape, 60.0, rng, 1)
    pitch = rng.uniform(3.2, 6.0)
    weave = np.sin(2 * np.pi * (x + bend) / pitch) * np.sin(2 * np.pi * (y + bend) / pitch)
    check = np.sin(x / rng.uniform(6, 14)) + np.sin(y / rng.uniform(6, 14))
    value = 1 + 0.16 * weave + rng.uniform(0, 0.2) * check + 0.1 * cloud(shape, 50.0, rng, 2)
    colour = rng.uniform(0.08, 0.45, 3)
    return _tinted(value, (colour[0], colour[1], colour[2]), rng)


def _tiles(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    size, x0, y0 = rng.uniform(28, 60), rng.uniform(0, 60), rng.uniform(0, 60)
    column, row = np.floor((x + x0) / size), np.floor((y + y0) / size)
    aside, below = (x + x0) / size - column, (y + y0) / size - row
    edge = 0.5 - np.maximum(np.abs(aside - 0.5), np.abs(below - 0.5))
    each = rng.normal(1, 0.13, (64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    value = each * (1 + 0.12 * cloud(shape, 25.0, rng, 4)) * (0.5 + 0.5 * smoothstep(0, 0.04, edge))
    return _tinted(value.astype(np.float32), (0.38, 0.36, 0.33), rng)


def _grass(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    blades = np.maximum(streaks(shape, 9.0, rng), 0) + 0.6 * cloud(shape, 4.0, rng, 2)
    value = 0.8 + 0.3 * np.ascontiguousarray(blades.swapaxes(0, 1))
    value = value * (1 + 0.2 * cloud(shape, 45.0, rng, 2))
    return _tinted(value, (0.13, 0.22, 0.06), rng)


def _gravel(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    stones = smoothstep(-0.6, 0.9, cloud(shape, rng.uniform(6, 11), rng, 2))
    value = 0.45 + 0.75 * stones + 0.08 * cloud(shape, 2.0, rng, 1)
    return _tinted(value, (0.3, 0.29, 0.28), rng)


def _board(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    value = 1 + 0.05 * cloud(shape, 60.0, rng, 3) + 0.03 * cloud(shape, 2.0, rng, 1)
    stain = smoothstep(0.8, 1.6, cloud(shape, 45.0, rng, 3))
    bright = rng.uniform(0.15, 0.6)
    return _tinted(value * (1 - 0.4 * stain), (bright, 0.97 * bright, 0.9 * bright), rng)


GROUNDS: tuple[Ground, ...] = (_sand, _wood, _cloth, _tiles, _grass, _gravel, _board)
