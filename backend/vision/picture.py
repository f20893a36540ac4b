"""Bytes of an image file -> upright RGB pixels, at no more resolution than is asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from backend.errors import ImageError

MAX_PIXELS = 100_000_000
# WebP cannot be decoded at a reduced scale, and takes the most memory and time of all.
_MAX_WEBP_PIXELS = 50_000_000
# Pillow reads many more, one of them (EPS) by running another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_TRANSPOSED_ORIENTATIONS = frozenset({5, 6, 7, 8})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
# Modes whose neighbouring pixels can be averaged; a palette's cannot.
_REDUCIBLE_MODES = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})
_END_OF_JPEG = b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_END_OF_PNG = b"IEND\xaeB`\x82"
_IEND = b"\x00\x00\x00\x00" + _END_OF_PNG
_BITS_PER_SAMPLE = 258
_PLANAR_CONFIGURATION = 284
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


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

    What browsers show is decoded: a JPEG that lacks its end mark, a PNG with large texts. Greys and
    colours of more than 8 bits, integers or floats, are scaled by the range that the image uses:
    see `_to_eight_bits`.

    Args:
        data: the bytes of the file.
        long_side: the longer side wanted, in pixels. The image is decoded at the smallest scale
            (1, 1/2, 1/4 or 1/8) whose longer side still reaches it: JPEGs then decode faster.
        max_pixels: images of this many pixels or more are refused before they are decoded; of a
            WebP half as many.

    Raises:
        ImageError: empty, truncated, too large, or no image at all.
    """
    if not data:
        raise ImageError("the image file is empty (0 bytes): replace it")
    try:
        try:
            return _decode(data, long_side, max_pixels)
        except (OSError, ValueError):
            mended = _mended(data)
            if mended is None:
                raise
            picture = _decode(mended, long_side, max_pixels)
            # Of a JPEG that breaks off sooner, all that is missing has one colour.
            if mended.startswith(_PNG) or np.ptp(picture.pixels[-1], axis=0).any():
                return picture
            raise
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
            f"the image is damaged or truncated ({_one_line(error)}): replace the file"
        ) from None


def _decode(data: bytes, long_side: int, max_pixels: int) -> Picture:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        limit = min(max_pixels, _MAX_WEBP_PIXELS) if image.format == "WEBP" else max_pixels
        _check_size(image.size, limit)
        return _decode_open(image, _deep_colours(image, data), long_side)


def _deep_colours(image: Image.Image, data: bytes) -> Image.Image | None:
    """An image with 16 bits a colour, read by OpenCV; None: it has fewer, or OpenCV cannot.

    Pillow keeps the upper 8 of them, which are black where a camera fills 10 or 12.
    """
    if not _has_deep_colours(image):
        return None
    import cv2

    # What it cannot read is for Pillow to read, or to name.
    cv2.setLogLevel(0)
    whole = data if image.format == "TIFF" or data.rstrip().endswith(_END_OF_PNG) else data + _IEND
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(whole, dtype=np.uint8), flags)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        return None
    colours = _to_eight_bits(found[..., 2::-1])
    if image.mode != "RGBA":  # a fourth band may be anything
        return Image.fromarray(colours)
    return Image.fromarray(np.dstack([colours, (found[..., 3] // 256).astype(np.uint8)]))


def _has_deep_colours(image: Image.Image) -> bool:
    if not image.mode.startswith("RGB"):
        return False
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        apart = tags.get(_PLANAR_CONFIGURATION) == 2  # OpenCV reads those wrong
        return 16 in tags.get(_BITS_PER_SAMPLE, ()) and not apart
    tiles = getattr(image, "tile", ())
    return image.format == "PNG" and any(";16" in str(tile[3]) for tile in tiles)


def _mended(data: bytes) -> bytes | None:
    """The file with what Pillow stumbles over put right; None: there is nothing of the kind."""
    if data.startswith(b"\xff\xd8") and not data.rstrip(b"\x00").endswith(_END_OF_JPEG):
        return data + _END_OF_JPEG
    return _without_texts(data) if data.startswith(_PNG) else None


def _without_texts(png: bytes) -> bytes | None:
    """A PNG without its text chunks, which Pillow limits; None: it has none."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] not in _PNG_TEXTS:
            kept.append(png[place:end])
        place = end
    stripped = b"".join(kept)
    return stripped if len(stripped) < len(png) else None


def thumbnail(picture: Picture, side: int, *, quality: int = 80) -> bytes:
    """The picture as a JPEG whose longer side is at most `side` pixels."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decode_open(image: Image.Image, deep: Image.Image | None, long_side: int) -> Picture:
    """Decode an open image; `deep` are its pixels where Pillow would lose some of their bits."""
    width, height = image.size
    longest = max(width, height)
    # Only JPEGs obey draft(): libjpeg then skips the work for the pixels nobody wants.
    wanted = (max(1, width * long_side // longest), max(1, height * long_side // longest))
    if deep is None:
        image.draft(None, wanted)
        image.load()
    whole = deep or image
    factor = _shrink_factor(max(whole.size), long_side)
    # Before the conversion where that is possible: it copies every pixel.
    small = whole.reduce(factor) if factor > 1 and whole.mode in _REDUCIBLE_MODES else whole
    upright = _to_rgb(small)
    if factor > 1 and small is whole:
        upright = upright.reduce(factor)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if deep is not None and image.format == "TIFF":
        orientation = 1  # OpenCV has turned the pixels, and Pillow the size
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
    """Any mode to RGB; transparent pixels are shown on white, deep greys in the range they use."""
    if image.mode in _DEEP_MODES:
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(greys: NDArray[Any]) -> NDArray[np.uint8]:
    """Greys (h, w) or colours (h, w, 3) of more than 8 bits as uint8, by the range they use.

    Integers are taken for the fewest of 8, 10, 12, 14, 16 .. bits that hold the largest of them:
    files of 16 bits often carry 10 or 12, which would else be almost black. Floats from 0 to 1, or
    to 255, are taken as they are, all others from the smallest to the largest; what is no number
    is black.
    """
    if greys.dtype.kind == "f":
        values = np.nan_to_num(greys.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 255:
            values, high = values - low, high - low
            scale = 255 / high if high else 0.0
        else:
            scale = 255.0 if high <= 1 else 1.0
        return (values * scale).round().astype(np.uint8)
    integers = greys  # as narrow as they are: photographs have many millions of pixels
    if greys.dtype.kind != "u":
        integers = greys.astype(np.int64)
        integers -= min(0, int(integers.min()))
    bits = int(integers.max()).bit_length()
    return (integers >> max(0, bits + bits % 2 - 8)).astype(np.uint8)


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
