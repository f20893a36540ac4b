from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.errors import TrainingError
from backend.training.dataset import TrainingImage, write_dataset

CLASSES = ("bolt", "nut")
RED = (255, 0, 0)


def picture(
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None,
    *,
    orientation: int = 1,
    kind: str = "PNG",
) -> bytes:
    """A file whose upright picture has `size` and a red rectangle at `box`, on grey."""
    image = Image.new("RGB", size, (90, 90, 90))
    if box is not None:
        image.paste(RED, box)
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def training_image(
    name: str, data: bytes, *boxes: tuple[int, ...], size: tuple[int, int] = (64, 48)
) -> TrainingImage:
    xyxy = np.array(boxes, np.float64).reshape(-1, 4) / (size * 2)
    return TrainingImage(name, data, xyxy, np.full(len(boxes), 1))


def good(name: str = "good") -> TrainingImage:
    return training_image(name, picture((64, 48), (8, 8, 24, 24)), (8, 8, 24, 24))


def read_back(folder: Path, name: str) -> tuple[np.ndarray, list[list[float]]]:
    """The picture as Ultralytics reads it, and the rows of its label file."""
    pixels = cv2.imread(str(folder / "images" / f"{name}.jpg"))
    text = (folder / "labels" / f"{name}.txt").read_text()
    return pixels, [[float(x) for x in line.split()] for line in text.splitlines()]


@pytest.mark.parametrize(
    "images",
    [
        pytest.param([], id="no images"),
        pytest.param([training_image("a", picture((32, 32), None))], id="no boxes"),
        pytest.param([training_image("a", b"no image", (1, 1, 9, 9))], id="none readable"),
    ],
)
def test_without_a_box_there_is_nothing_to_train_on(
    tmp_path: Path, images: list[TrainingImage]
) -> None:
    with pytest.raises(TrainingError, match="annotate some objects first"):
        write_dataset(tmp_path / "set", images, CLASSES, image_size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "orientation", "kind", "written"),
    [
        ((640, 480), 1, "PNG", (320, 240)),
        ((640, 480), 6, "PNG", (320, 240)),
        ((480, 640), 6, "JPEG", (240, 320)),
        ((3000, 1000), 1, "JPEG", (320, 107)),
        ((200, 100), 1, "PNG", (200, 100)),
    ],
)
def test_a_box_lies_on_its_object_whatever_the_scale_and_orientation(
    tmp_path: Path, size: tuple[int, int], orientation: int, kind: str, written: tuple[int, int]
) -> None:
    box = (size[0] // 2, size[1] // 5, size[0] * 3 // 4, size[1] * 3 // 5)
    data = picture(size, box, orientation=orientation, kind=kind)
    write_dataset(
        tmp_path / "set", [training_image("a", data, box, size=size)], CLASSES, image_size=320
    )
    pixels, rows = read_back(tmp_path / "set", "a")
    assert pixels.shape[1::-1] == written
    ((class_id, x, y, w, h),) = rows
    assert class_id == 1
    red = np.argwhere(pixels[..., 2].astype(int) - pixels[..., 0] > 100)
    (top, left), (bottom, right) = red.min(0), red.max(0) + 1
    labelled = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * (*written, *written)
    assert labelled == pytest.approx([left, top, right, bottom], abs=1.5)


def test_backgrounds_count_and_unreadable_images_are_left_out_with_a_reason(tmp_path: Path) -> None:
    background = training_image("background", picture((64, 48), None))
    broken = training_image("broken", good().data[:60], (1, 1, 9, 9))
    done: list[int] = []
    summary = write_dataset(
        tmp_path / "set",
        [background, broken, good()],
        CLASSES,
        image_size=64,
        on_progress=done.append,
    )
    assert done == [1, 2, 3]
    assert (summary.images, summary.backgrounds, summary.boxes) == (2, 1, 1)
    assert summary.boxes_by_class == {"bolt": 0, "nut": 1}
    assert list(summary.skipped) == ["broken"]
    assert "damaged" in summary.skipped["broken"]
    assert read_back(tmp_path / "set", "background")[1] == []
    assert not (tmp_path / "set" / "images" / "broken.jpg").exists()


def test_boxes_are_cut_at_the_edge_of_the_image(tmp_path: Path) -> None:
    data = picture((100, 50), None)
    boxes = (-10, -10, 50, 25), (20, 20, 20, 40), (200, 0, 300, 50)
    cut = training_image("cut", data, *boxes, size=(100, 50))
    outside = training_image("outside", data, (200, 0, 300, 50), size=(100, 50))
    summary = write_dataset(tmp_path / "set", [cut, outside], CLASSES, image_size=100)
    assert read_back(tmp_path / "set", "cut")[1] == [[1, 0.25, 0.25, 0.5, 0.5]]
    # Not a background: someone said that there is something.
    assert "outside" in summary.skipped["outside"]


def test_a_whole_data_set_is_returned_as_it_is(tmp_path: Path) -> None:
    def never() -> Iterator[TrainingImage]:
        raise AssertionError("read again")
        yield

    first = write_dataset(tmp_path / "set", [good()], CLASSES, image_size=64)
    assert write_dataset(tmp_path / "set", never(), CLASSES, image_size=64) == first


KILLED = """
import os, pathlib, sys
from backend.training.dataset import write_dataset
from tests.training.test_dataset import CLASSES, good

def images():
    yield good("first")
    os.kill(os.getpid(), 9)

write_dataset(pathlib.Path(sys.argv[1]), images(), CLASSES, image_size=64)
"""


def test_a_killed_run_leaves_no_data_set_and_the_next_one_makes_it_whole(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -9
    assert not folder.exists()
    write_dataset(folder, [good("second")], CLASSES, image_size=64)
    assert [path.name for path in (folder / "images").iterdir()] == ["second.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# A limit on the size of files fails as a full disk does, for this process only.
FULL_DISK = """
import pathlib, resource, sys
from backend.errors import TrainingError
from backend.training.dataset import write_dataset
from tests.training.test_dataset import CLASSES, picture, training_image

image = training_image("a", picture((640, 480), (9, 9, 300, 300)), (9, 9, 300, 300))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_dataset(pathlib.Path(sys.argv[1]), [image], CLASSES, image_size=640)
except TrainingError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_nothing_half(tmp_path: Path) -> None:
    run = [sys.executable, "-c", FULL_DISK, str(tmp_path / "set")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the disk is full")
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_names_that_are_no_file_stems_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="file stem"):
        good(name)
