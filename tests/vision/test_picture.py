from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.errors import ImageError
from backend.vision.picture import decode, thumbnail

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """32 x 16: red, green above blue, white."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(GREEN, (16, 0, 32, 8))
    image.paste(BLUE, (0, 8, 16, 16))
    image.paste(WHITE, (16, 8, 32, 16))
    return image


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Colours of the four quarters, in reading order."""
    h, w = pixels.shape[:2]
    points = [
        (h // 4, w // 4),
        (h // 4, 3 * w // 4),
        (3 * h // 4, w // 4),
        (3 * h // 4, 3 * w // 4),
    ]
    return [tuple(int(c) for c in pixels[y, x]) for y, x in points]


class TestOrientation:
    @pytest.mark.parametrize(
        ("orientation", "size", "seen"),
        [
            (1, (32, 16), [RED, GREEN, BLUE, WHITE]),
            (2, (32, 16), [GREEN, RED, WHITE, BLUE]),
            (3, (32, 16), [WHITE, BLUE, GREEN, RED]),
            (4, (32, 16), [BLUE, WHITE, RED, GREEN]),
            (5, (16, 32), [RED, BLUE, GREEN, WHITE]),
            (6, (16, 32), [BLUE, RED, WHITE, GREEN]),
            (7, (16, 32), [WHITE, GREEN, BLUE, RED]),
            (8, (16, 32), [GREEN, WHITE, RED, BLUE]),
        ],
    )
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_is_applied_once(
        self, kind: str, orientation: int, size: tuple[int, int], seen: list[tuple[int, ...]]
    ) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        picture = decode(encoded(quarters(), kind, exif=exif, **options), long_side=640)
        assert picture.size == size
        assert picture.pixels.shape == (size[1], size[0], 3)
        for got, wanted in zip(corners(picture.pixels), seen, strict=True):
            assert np.abs(np.subtract(got, wanted)).max() < 8

    def test_is_applied_to_a_reduced_jpeg_whose_size_stays_that_of_the_file(self) -> None:
        exif = Image.Exif()
        exif[274] = 6
        data = encoded(quarters().resize((1600, 800), 0), "JPEG", exif=exif)
        picture = decode(data, long_side=400)
        assert picture.size == (800, 1600)
        assert picture.pixels.shape == (400, 200, 3)

    def test_nonsense_is_ignored(self) -> None:
        exif = Image.Exif()
        exif[274] = 99
        assert decode(encoded(quarters(), exif=exif), long_side=640).size == (32, 16)


class TestScale:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @pytest.mark.parametrize(
        ("long_side", "shape"),
        [(640, (750, 1000)), (2000, (1500, 2000)), (2001, (3000, 4000)), (9999, (3000, 4000))],
    )
    def test_is_the_smallest_that_reaches_the_long_side(
        self, kind: str, long_side: int, shape: tuple[int, int]
    ) -> None:
        data = encoded(Image.new("RGB", (4000, 3000), RED), kind, **{"compress_level": 1})
        picture = decode(data, long_side=long_side)
        assert picture.pixels.shape[:2] == shape
        assert picture.size == (4000, 3000)

    def test_never_enlarges(self) -> None:
        assert decode(encoded(quarters()), long_side=640).pixels.shape == (16, 32, 3)

    def test_keeps_a_very_thin_image(self) -> None:
        picture = decode(encoded(Image.new("RGB", (4000, 1)), "JPEG"), long_side=500)
        assert picture.pixels.shape == (1, 500, 3)
        assert picture.size == (4000, 1)


class TestModes:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr"])
    def test_become_rgb(self, mode: str) -> None:
        image = Image.new("RGB", (8, 8), WHITE).convert(mode)
        kind = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
        assert np.all(decode(encoded(image, kind), long_side=640).pixels == 255)

    def test_transparent_pixels_are_white(self) -> None:
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        assert np.all(decode(encoded(image), long_side=640).pixels == 255)

    def test_transparent_palette_entries_are_white(self) -> None:
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 20, 30] * 256)
        assert np.all(decode(encoded(image, transparency=0), long_side=640).pixels == 255)

    def test_sixteen_bits_keep_their_range(self) -> None:
        greys = np.array([[0, 0x80FF, 0xFFFF]], dtype=np.uint16)
        pixels = decode(encoded(Image.fromarray(greys)), long_side=640).pixels
        assert pixels[0].tolist() == [[0] * 3, [0x80] * 3, [0xFF] * 3]

    @pytest.mark.parametrize(
        ("greys", "shown"),
        [
            (np.array([[0, 0x800, 0xFFF]], np.uint16), [0, 0x80, 0xFF]),
            (np.array([[0, 0x200, 0x3FF]], np.uint16), [0, 0x80, 0xFF]),
            (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
            (np.array([[-255, 0, 256]], np.int32), [0, 63, 127]),
            (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 64, 127]),
            (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
            (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
            (np.array([[-1000, 0, 1000]], np.float32), [0, 128, 255]),
            (np.array([[np.nan, 0.2, 1]], np.float32), [0, 51, 255]),
        ],
        ids=["12 bits", "10 bits", "int32 of bytes", "negative", "31 bits", "shares", "float bytes",
             "heights", "no number"],
    )  # fmt: skip
    def test_deep_greys_are_scaled_by_the_range_they_use(
        self, greys: NDArray[Any], shown: list[int]
    ) -> None:
        pixels = decode(encoded(Image.fromarray(greys), "TIFF"), long_side=640).pixels
        np.testing.assert_allclose(pixels[0, :, 0], shown, atol=1)

    def test_the_first_frame_of_an_animation_is_taken(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode(data, long_side=640).pixels[0, 0].tolist() == list(RED)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x00\x00\x00\x0d" + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"


def photograph(side: int = 240) -> Image.Image:
    """Something with texture everywhere."""
    coarse = np.random.default_rng(0).integers(0, 255, (side // 8, side // 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side))


class TestWhatBrowsersShow:
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95}])
    @pytest.mark.parametrize("long_side", [640, 30])
    def test_a_jpeg_without_its_end_mark(self, options: dict[str, Any], long_side: int) -> None:
        data = encoded(photograph(), "JPEG", **options)
        whole = decode(data, long_side=long_side)
        np.testing.assert_array_equal(decode(data[:-2], long_side=long_side).pixels, whole.pixels)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    def test_a_jpeg_that_breaks_off_sooner_is_refused(self, share: float) -> None:
        data = encoded(photograph(), "JPEG")
        with pytest.raises(ImageError, match=r"damaged or truncated .*: replace the file"):
            decode(data[: int(len(data) * share)], long_side=640)

    def test_a_png_with_a_large_text(self) -> None:
        texts = PngInfo()
        texts.add_text("notes", "x" * 5_000_000, zip=True)
        image = photograph()
        pixels = decode(encoded(image, pnginfo=texts), long_side=640).pixels
        np.testing.assert_array_equal(pixels, np.asarray(image))


class TestRefuses:
    def test_a_webp_of_which_a_small_file_takes_long(self) -> None:
        data = encoded(Image.new("RGB", (8000, 7000)), "WEBP", lossless=True, method=0)
        assert len(data) < 1000
        with pytest.raises(ImageError, match=r"8000 x 7000 pixels.*less than 50 million pixels"):
            decode(data, long_side=640)

    def test_an_empty_file(self) -> None:
        with pytest.raises(ImageError, match=r"empty \(0 bytes\): replace it"):
            decode(b"", long_side=640)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
    @pytest.mark.parametrize("share", [0.2, 0.6])
    def test_a_truncated_file(self, kind: str, share: float) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        data = encoded(Image.fromarray(noise), kind)
        with pytest.raises(ImageError, match=r"damaged or truncated|no image"):
            decode(data[: int(len(data) * share)], long_side=640)

    @pytest.mark.parametrize("data", [b"<html>Sign in</html>", b"\x00" * 100, b"x"])
    def test_what_is_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageError, match="not a web page"):
            decode(data, long_side=640)

    @pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "TGA", "PCX"])
    def test_a_format_that_cameras_do_not_write(self, kind: str) -> None:
        with pytest.raises(ImageError, match="JPEG, PNG, WebP, BMP, TIFF or GIF"):
            decode(encoded(quarters(), kind), long_side=640)

    @pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000)])
    def test_too_many_pixels_by_the_header_alone(self, size: tuple[int, int]) -> None:
        with pytest.raises(ImageError, match="less than 100 million pixels") as caught:
            decode(png_header(*size), long_side=640)
        assert "\n" not in str(caught.value)

    def test_exactly_the_limit_but_not_one_less(self) -> None:
        data = encoded(quarters())
        with pytest.raises(ImageError, match="32 x 16 pixels"):
            decode(data, long_side=640, max_pixels=512)
        assert decode(data, long_side=640, max_pixels=513).size == (32, 16)


def test_threads_decode_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    expected = decode(data, long_side=200).pixels
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda _: decode(data, long_side=200), range(32)))
    assert all(np.array_equal(picture.pixels, expected) for picture in pictures)


def test_thumbnail_is_a_small_jpeg_of_the_same_shape() -> None:
    data = thumbnail(decode(encoded(quarters().resize((320, 160))), long_side=640), 64)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (64, 32))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize(("bits", "alpha"), [(10, False), (12, False), (16, False), (12, True)])
def test_colours_of_more_than_eight_bits_keep_their_range(
    kind: str, bits: int, alpha: bool
) -> None:
    import cv2

    top = 2**bits - 1
    # OpenCV writes blue first.
    red, green = (0, 0, top), (0, top // 2, 0)
    pixels = np.array([[red, green]] * 4, dtype=np.uint16)
    if alpha:
        pixels = np.dstack([pixels, np.full((4, 2), 65535, dtype=np.uint16)])
    written, data = cv2.imencode(kind, pixels)
    assert written

    picture = decode(data.tobytes(), long_side=640)

    assert picture.size == (2, 4)
    assert picture.pixels[0].tolist() == [[255, 0, 0], [0, 127, 0]]


def test_deep_colours_are_turned_upright() -> None:
    import cv2

    _, data = cv2.imencode(".png", np.full((4, 2, 3), 4095, dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\x00\x00")
    body = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png = data.tobytes()
    head = 8 + 25  # the signature and the header
    assert decode(png[:head] + body + png[head:], long_side=640).size == (4, 2)


def tiff_of_deep_colours(pixels: NDArray[np.uint16], *, orientation: int = 1) -> bytes:
    """An uncompressed TIFF (little-endian, one strip) of (h, w, bands) values."""
    height, width, bands = pixels.shape
    body = pixels.astype("<u2").tobytes()
    fields = {
        256: [width],
        257: [height],
        258: [16] * bands,
        259: [1],
        262: [2],
        273: [8],
        274: [orientation],
        277: [bands],
        278: [height],
        279: [len(body)],
    }
    if bands == 4:
        fields[338] = [0]
    place = 8 + len(body)
    table, more = b"", b""
    end = place + 2 + 12 * len(fields) + 4
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, more = struct.pack("<I", end + len(more)), more + packed
        table += struct.pack("<HHI", tag, 4, len(values)) + packed
    head = b"II*\0" + struct.pack("<I", place)
    return head + body + struct.pack("<H", len(fields)) + table + bytes(4) + more


def deep_corner() -> NDArray[np.uint16]:
    """4 x 6, black but for a red corner at the top left."""
    pixels = np.zeros((4, 6, 3), dtype=np.uint16)
    pixels[0, 0, 0] = 4095
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_are_turned_as_shallow_ones_are(orientation: int) -> None:
    found = decode(tiff_of_deep_colours(deep_corner(), orientation=orientation), long_side=640)

    shallow = Image.fromarray((deep_corner() >> 4).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode(encoded(shallow, "PNG", exif=exif), long_side=640)
    assert found.size == expected.size
    assert np.array_equal(found.pixels, expected.pixels)


def test_a_fourth_band_is_no_transparency() -> None:
    infrared = np.dstack([deep_corner(), np.full((4, 6), 7, dtype=np.uint16)])
    found = decode(tiff_of_deep_colours(infrared), long_side=640)
    assert found.pixels[0, 0].tolist() == [255, 0, 0]
    assert found.pixels.sum() == 255


def test_a_deep_png_without_its_end_is_shown() -> None:
    import cv2

    _, data = cv2.imencode(".png", deep_corner()[..., ::-1])
    found = decode(data.tobytes()[:-12], long_side=640)
    assert found.pixels[0, 0].tolist() == [255, 0, 0]


def test_a_bitmap_of_five_and_six_bits_a_colour_is_no_deep_one() -> None:
    red = struct.pack("<H", 0b11111_000000_00000) * 4 * 2
    masks = struct.pack("<III", 0b11111_000000_00000, 0b111111_00000, 0b11111)
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 16, 3, len(red), 0, 0, 0, 0)
    start = 14 + len(header) + len(masks)
    bmp = b"BM" + struct.pack("<IHHI", start + len(red), 0, 0, start) + header + masks + red
    assert decode(bmp, long_side=640).pixels[0, 0].tolist() == [255, 0, 0]


def test_deep_colours_that_break_off_are_one_line() -> None:
    import cv2

    _, data = cv2.imencode(".png", np.random.default_rng(1).integers(0, 4095, (64, 64, 3), "u2"))
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data.tobytes()[: len(data) // 2], long_side=640)
