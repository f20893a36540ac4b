"""Bytes of an image file -> upright RGB pixels, at no more resolution than is asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from backend.errors import ImageError

MAX_PIXELS = 100_000_000
# Pillow reads many more, one of them (EPS) by running another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_TRANSPOSED_ORIENTATIONS = frozenset({5, 6, 7, 8})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image.

    Args:
        pixels: (h, w, 3) uint8 RGB, upright, possibly at a reduced scale.
        size: (width, height) in pixels of the full upright image. Boxes are given in these.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def decode(data: bytes, *, long_side: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a JPEG, PNG, WebP, BMP, TIFF or GIF of any mode. Safe to call from many threads.

    Args:
        data: the bytes of the file.
        long_side: the longer side wanted, in pixels. The image is decoded at the smallest scale
            (1, 1/2, 1/4 or 1/8) whose longer side still reaches it: JPEGs then decode faster.
        max_pixels: images of this many pixels or more are refused before they are decoded.

    Raises:
        ImageError: empty, truncated, too large, or no image at all.
    """
    if not data:
        raise ImageError("the image file is empty (0 bytes): upload it again")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, max_pixels)
            return _decode_open(image, long_side)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("more than 100 million pixels", max_pixels) from None
    # ImportError: where ultralytics has replaced Image.open, it looks for a HEIC reader here.
    except (UnidentifiedImageError, ImportError):
        raise ImageError(
            "this is no image that can be read: check that the address serves an image file "
            "(JPEG, PNG, WebP, BMP, TIFF or GIF) and not a web page"
        ) from None
    # Damaged files surface as whatever the format's parser trips over.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise ImageError(
            f"the image is damaged or truncated ({_one_line(error)}): upload it again"
        ) from None


def thumbnail(picture: Picture, side: int, *, quality: int = 80) -> bytes:
    """The picture as a JPEG whose longer side is at most `side` pixels."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decode_open(image: Image.Image, long_side: int) -> Picture:
    width, height = image.size
    longest = max(width, height)
    # Only JPEGs obey draft(): libjpeg then skips the work for the pixels nobody wants.
    wanted = (max(1, width * long_side // longest), max(1, height * long_side // longest))
    image.draft(None, wanted)
    image.load()
    factor = _shrink_factor(max(image.size), long_side)
    upright = _to_rgb(image)
    if factor > 1:
        upright = upright.reduce(factor)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        # exif_transpose reads the tag from the image it is given, and conversion may drop it.
        upright.getexif()[ExifTags.Base.Orientation] = orientation
        upright = ImageOps.exif_transpose(upright)
    if orientation in _TRANSPOSED_ORIENTATIONS:
        width, height = height, width
    return Picture(np.asarray(upright, dtype=np.uint8), (width, height))


def _shrink_factor(longest: int, long_side: int) -> int:
    """The largest of 1, 2, 4, 8 that keeps `longest` at `long_side` or more."""
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or longest // factor >= long_side)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; transparent pixels are shown on white, 16-bit greys keep their range."""
    if image.mode in _SIXTEEN_BIT_MODES:
        greys = np.asarray(image).astype(np.uint32)
        return Image.fromarray((greys >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height >= max_pixels:
        raise _too_large(f"{width} x {height} pixels", max_pixels)


def _too_large(what: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"the image is too large ({what}): it must have less than {max_pixels / 1e6:g} "
        "million pixels; shrink it or cut it into tiles"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
