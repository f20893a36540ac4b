"""The camera: uneven light, focus, motion, sensor noise, tone and JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.drawing import Array, cloud, smoothstep


@dataclass(frozen=True)
class Exposure:
    """How one frame is taken.

    Attributes:
        gain: brightness, 1 is well exposed.
        defocus: radius of the blur in pixels, 0 is sharp.
        motion: length of the smear along the belt in pixels, 0 is still.
        noise: sensor noise, 1 is an ordinary industrial camera.
        white: (3,) white balance.
        quality: JPEG quality.
    """

    gain: float = 1.0
    defocus: float = 0.0
    motion: float = 0.0
    noise: float = 1.0
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)
    quality: int = 85


def light_field(
    shape: tuple[int, int], slope: tuple[float, float], rng: np.random.Generator, shadow: float
) -> Array:
    """(h, w) brightness over the picture: vignette, slope, a hot spot, perhaps a shadow edge.

    `slope` is the change of light along x and y; `shadow` is 0 (none) to 1 (black).
    """
    height, width = shape
    y, x = np.mgrid[-0.75 : 0.75 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    field = 1.0 - 0.34 * (x * x + y * y) + slope[0] * x + slope[1] * y
    for _ in range(int(rng.integers(1, 3))):
        cx, cy, size = rng.uniform(-0.8, 0.8), rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7)
        far = ((x - cx) ** 2 + 1.4 * (y - cy) ** 2) / (size * size)
        field += rng.uniform(0.08, 0.30) * np.exp(-far)
    if shadow > 0:
        turn = rng.uniform(0, 6.3)
        side = x * np.cos(turn) + y * np.sin(turn) - rng.uniform(0.1, 0.5)
        side += 0.02 * cloud(shape, 160.0, rng, 1)
        dark = smoothstep(-0.02, rng.uniform(0.04, 0.2), side)
        if rng.random() < 0.5:
            dark *= smoothstep(0.6, 0.45, side)
        field *= 1.0 - shadow * dark
    return np.maximum(field, 0.05).astype(np.float32)


def _smear(image: Array, exposure: Exposure) -> Array:
    if exposure.defocus > 0.4:
        size = 2 * int(np.ceil(exposure.defocus)) + 1
        y, x = np.mgrid[:size, :size] - size // 2
        disc = np.clip(exposure.defocus + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
        image = cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)
    if exposure.motion > 1.0:
        length = round(exposure.motion) | 1
        image = cv2.blur(image, (length, 1), borderType=cv2.BORDER_REFLECT)
    return image


def _curve() -> NDArray[np.uint8]:
    """Display values of linear light 0 to 4 in steps of 1/4096: a shoulder, then gamma."""
    light = np.arange(4 * 4096, dtype=np.float32) / 4096
    shoulder = light * (1.0 + light * 0.16) / (1.0 + light * 0.62) * 1.22
    return (np.clip(shoulder, 0.0, 1.0) ** 0.46 * 255 + 0.5).astype(np.uint8)


_CURVE = _curve()


def _grain(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """(h, w, 3) noise of about unit spread: fine in brightness, coarser in colour."""
    height, width = shape
    fine = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 0.6)
    colour = rng.standard_normal(((height + 1) // 2, (width + 1) // 2, 3), dtype=np.float32)
    colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.addWeighted(colour, 0.7, cv2.merge([fine, fine, fine]), 1.6, 0.0)


def take(light: Array, exposure: Exposure, rng: np.random.Generator) -> bytes:
    """Photograph `light` ((h, w, 3), linear); returns the JPEG file."""
    image = _smear(light * np.float32(exposure.gain), exposure)
    small = cv2.resize(np.maximum(image - 0.75, 0), None, fx=0.25, fy=0.25)
    bloom = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3.0), light.shape[1::-1])
    image = cv2.GaussianBlur(image + 0.5 * bloom, (0, 0), 0.62)
    image *= np.asarray(exposure.white, np.float32)
    np.clip(image, 0.0, 3.5, out=image)
    sigma = np.sqrt(image[..., 1:2] * 0.00032 + 0.000004) * np.float32(exposure.noise)
    image += sigma * _grain(light.shape[:2], rng)
    np.clip(image, 0.0, 3.99, out=image)
    image *= 4096.0
    pixels = _CURVE[image.astype(np.uint16)]
    done, buffer = cv2.imencode(
        ".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, exposure.quality]
    )
    if not done:
        raise ValueError("The frame could not be encoded as JPEG.")
    return buffer.tobytes()


def developed(jpeg: bytes) -> NDArray[np.uint8]:
    """(h, w, 3) RGB pixels of a JPEG file."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(bgr[..., ::-1])
