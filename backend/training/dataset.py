"""Labelled images -> a YOLO data set on disk, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.disk import is_disk_full
from backend.errors import ImageError, TrainingError
from backend.vision.picture import Picture, decode

_SUMMARY = "summary.json"
_DATA_YAML = "data.yaml"
_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One image and what is on it.

    Args:
        name: file stem, unique in its data set, such as "task-123".
        data: the encoded image file, as it was uploaded.
        xyxy: (N, 4) boxes, left, top, right, bottom as shares (0..1) of the upright image. None at
            all: a background image.
        class_ids: (N,) int, indices into the class names.
    """

    name: str
    data: bytes
    xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.name in {"", ".."} or Path(self.name).name != self.name:
            raise ValueError(f"{self.name!r} is no file stem")
        if self.xyxy.shape != (len(self.class_ids), 4):
            raise ValueError(f"{self.xyxy.shape} boxes for {len(self.class_ids)} class ids")


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set holds.

    Args:
        images: how many images, backgrounds among them.
        backgrounds: how many images without boxes.
        boxes: how many boxes.
        boxes_by_class: class name -> how many boxes; every class is named.
        data_yaml: the file that Ultralytics is given.
        skipped: name of an image that was left out -> why.
    """

    images: int
    backgrounds: int
    boxes: int
    boxes_by_class: dict[str, int]
    data_yaml: Path
    skipped: dict[str, str]


def write_dataset(
    folder: Path,
    images: Iterable[TrainingImage],
    class_names: Sequence[str],
    *,
    image_size: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> DatasetSummary:
    """Write a data set, or return the one that is there: a restarted training sees the same data.

    Boxes are clipped to the image. An image that cannot be read, or whose boxes all lie outside
    of it, is left out, and the others go on. One process at a time may write to a folder.

    Args:
        folder: the data set's own folder. It appears when everything is in it.
        images: what to write; read one by one.
        class_names: (C,) names.
        image_size: longer side in pixels of the pictures written; smaller ones stay as they are.
        on_progress: called with the number of images dealt with.

    Raises:
        TrainingError: there is no box in all the images, or the disk is full.
    """
    folder = folder.absolute()
    if (folder / _SUMMARY).exists():
        return _read_summary(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed run
        partial.mkdir(parents=True)
        writer = _Writer(partial, class_names, image_size)
        for done, image in enumerate(images, start=1):
            writer.add(image)
            on_progress(done)
        writer.close(folder)
        partial.rename(folder)
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _read_summary(folder)


class _Writer:
    """Fills one folder and counts."""

    def __init__(self, folder: Path, class_names: Sequence[str], image_size: int) -> None:
        self._folder = folder
        self._class_names = class_names
        self._image_size = image_size
        self._images = 0
        self._backgrounds = 0
        self._boxes: Counter[int] = Counter()
        self._skipped: dict[str, str] = {}
        for part in ("images", "labels"):
            (folder / part).mkdir()

    def add(self, image: TrainingImage) -> None:
        if image.class_ids.size and int(image.class_ids.max()) >= len(self._class_names):
            raise ValueError(f"{image.name}: class {image.class_ids.max()} has no name")
        try:
            picture = decode(image.data, long_side=self._image_size)
        except ImageError as error:
            self._skipped[image.name] = str(error)
            return
        boxes = np.clip(image.xyxy, 0, 1)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if image.class_ids.size and not kept.any():
            self._skipped[image.name] = "all of its boxes are empty or outside of the image"
            return
        class_ids = image.class_ids[kept]
        _write_jpeg(picture, self._folder / "images" / f"{image.name}.jpg", self._image_size)
        label = self._folder / "labels" / f"{image.name}.txt"
        label.write_text(_label(boxes[kept], class_ids), encoding="utf-8")
        self._images += 1
        self._backgrounds += not class_ids.size
        self._boxes.update(class_ids.tolist())

    def close(self, folder: Path) -> None:
        """Write what describes the data set, as it will lie in `folder`."""
        if not self._boxes:
            raise TrainingError(
                f"there is nothing to train on: none of the {self._images} readable images "
                f"({len(self._skipped)} were left out) has a box; annotate some objects first"
            )
        counts = {name: self._boxes[index] for index, name in enumerate(self._class_names)}
        summary = DatasetSummary(
            images=self._images,
            backgrounds=self._backgrounds,
            boxes=self._boxes.total(),
            boxes_by_class=counts,
            data_yaml=folder / _DATA_YAML,
            skipped=self._skipped,
        )
        # Absolute: Ultralytics looks for a relative path in its own folder of data sets.
        data = {"path": str(folder), "train": "images", "val": "images"}
        # JSON is YAML too, and leaves no doubt about names such as "no" or "1".
        _write_json(self._folder / _DATA_YAML, {**data, "names": list(self._class_names)})
        _write_json(self._folder / _SUMMARY, {**asdict(summary), "data_yaml": _DATA_YAML})


def _write_jpeg(picture: Picture, path: Path, image_size: int) -> None:
    import cv2

    height, width = picture.pixels.shape[:2]
    pixels = picture.pixels
    scale = image_size / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    with path.open("xb") as stream:
        stream.write(jpeg.tobytes())


def _label(relative: NDArray[np.float64], class_ids: NDArray[np.int64]) -> str:
    """One line a box: class, centre x, centre y, width, height, relative to the image."""
    centres, sizes = (relative[:, :2] + relative[:, 2:]) / 2, relative[:, 2:] - relative[:, :2]
    rows = zip(class_ids, np.concatenate([centres, sizes], axis=1), strict=True)
    return "".join(f"{index} {' '.join(f'{x:.7f}' for x in row)}\n" for index, row in rows)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _read_summary(folder: Path) -> DatasetSummary:
    content = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    return DatasetSummary(**{**content, "data_yaml": folder / content["data_yaml"]})


def _not_written(folder: Path, error: OSError) -> TrainingError:
    if is_disk_full(error):
        return TrainingError(
            f"the disk is full: the training images do not fit into {folder.parent}; free some "
            "space there, or set a smaller TRAIN_IMAGE_SIZE. Nothing half-written was left"
        )
    return TrainingError(
        f"the training images cannot be written to {folder} ({error.strerror}): make that folder "
        "writable, or move DATA_DIR"
    )
