"""A labelled YOLO data set -> a pool to pick from and a test set, checked.

Nothing here knows which images show the same scene: where near-duplicates of pool images are in
the test set, every arm's figures are too high, and all alike. Files that are the same to the last
byte are found, and leave the pool.

Glossary: M boxes of one image, C classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import SimulationError
from backend.training.matching import Boxes
from backend.vision.weights import short_hash

__all__ = ["LabelledImage", "ReplayData", "read_data"]

_ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_RANDOM_TEST_SHARE = 0.25
_SLACK = 0.01  # how far a box may reach over the image's edge, as Ultralytics allows


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image file and what is on it.

    Args:
        path: the file.
        truth: its boxes, coordinates as shares (0..1) of the upright image; none: a background.
    """

    path: Path
    truth: Boxes


@dataclass(frozen=True, eq=False)
class ReplayData:
    """A data set to replay.

    Args:
        name: of the data set, for people.
        class_names: (C,) names.
        pool: the images to pick from.
        test: the images to judge on; none of them is in the pool.
        notes: what a reader of the results should know, one line each.
    """

    name: str
    class_names: tuple[str, ...]
    pool: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """12 hex digits that change whenever the images' names or sizes, or the labels, do."""
        digest = hashlib.sha256()
        for image in (*self.pool, *self.test):
            digest.update(f"{image.path.name} {image.path.stat().st_size}\n".encode())
            digest.update(image.truth.xyxy.tobytes() + image.truth.class_ids.tobytes() + b"\n")
        return short_hash(self.class_names, len(self.pool), digest.hexdigest())

    def boxes_by_class(self) -> dict[str, int]:
        """Class name -> how many boxes the pool has of it."""
        return dict(zip(self.class_names, self.boxes_on(range(len(self.pool))), strict=True))

    def boxes_on(self, places: Iterable[int]) -> list[int]:
        """(C,) how many boxes of each class these images of the pool have."""
        counts = _class_counts(self.pool[place] for place in places)
        return [counts[index] for index in range(len(self.class_names))]


def read_data(data_yaml: Path, *, seed: int = 0) -> ReplayData:
    """Read a data set and check all of it but the pixels.

    The test set is what the YAML names as `test`, else as `val`, else a quarter of the images,
    drawn at random. The pool is everything else that it names. One class, empty label files and
    images without one (backgrounds) are allowed.

    Args:
        data_yaml: Ultralytics' format: `path`, `train`, `val`, `test`, `names`. Each part is a
            folder, an image, a text file with one image a line, or a list of such. The labels of
            `images/x.jpg` are in `labels/x.txt`.
        seed: of the random test set.

    Raises:
        SimulationError: the first thing that is wrong, in one line.
    """
    content = _read_yaml(data_yaml)
    class_names = _class_names(content, data_yaml)
    parts = {
        key: _image_paths(content[key], _root(content, data_yaml))
        for key in ("train", "val", "test")
        if content.get(key)
    }
    pool_paths, test_paths, notes = _split(parts, data_yaml, seed)
    pool_paths, left_out = _without_copies(pool_paths, test_paths)
    if left_out:
        notes.append(f"{left_out} images left the pool: the test set has the same files")
    reader = _LabelReader(len(class_names))
    pool, test = reader.read(pool_paths), reader.read(test_paths)
    data = ReplayData(
        name=f"{data_yaml.absolute().parent.name}/{data_yaml.name}",
        class_names=class_names,
        pool=pool,
        test=test,
        notes=(*notes, *reader.notes()),
    )
    return _checked(data)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimulationError(f"{path} cannot be read ({error.strerror}): name a YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SimulationError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.get("train"):
        raise SimulationError(f"{path} names no `train` images: it must be a YOLO data set")
    return content


def _class_names(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise SimulationError(f"{path} must list its classes under `names`, numbered from 0")
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name, count in Counter(texts).items() if count > 1)
        raise SimulationError(f"{path} names the class {twice} twice: give each its own name")
    return texts


def _root(content: Mapping[str, Any], data_yaml: Path) -> Path:
    return data_yaml.absolute().parent / str(content.get("path") or "")


def _image_paths(named: Any, root: Path) -> list[Path]:
    """The images of one part of the data set, sorted, each once."""
    found: set[Path] = set()
    for entry in named if isinstance(named, list) else [named]:
        path = root / str(entry)
        if path.is_dir():
            found.update(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS)
        elif path.suffix == ".txt" and path.is_file():
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            # As Ultralytics reads them: "./" is the list's own folder.
            found.update(
                (path.parent if line.startswith("./") else root) / line.strip()
                for line in lines
                if line.strip()
            )
        else:
            found.add(path)
    missing = sorted(path for path in found if not path.is_file())
    if missing:
        raise SimulationError(f"{_and_others(missing)} is named but not there: mend the data set")
    return sorted(found)


def _split(
    parts: Mapping[str, list[Path]], data_yaml: Path, seed: int
) -> tuple[list[Path], list[Path], list[str]]:
    """The pool's images, those of the test set, and what is to be said of it."""
    key = next((key for key in ("test", "val") if key in parts), None)
    if key is None:
        paths = parts["train"]
        count = max(1, round(_RANDOM_TEST_SHARE * len(paths)))
        order = np.random.default_rng(seed).permutation(len(paths))
        test = sorted(paths[index] for index in order[:count])
        note = f"{data_yaml.name} names no test images: {count} of all, drawn at random, are them"
        return sorted(set(paths) - set(test)), test, [note]
    pool = sorted({path for name, paths in parts.items() if name != key for path in paths})
    both = sorted(set(pool) & set(parts[key]))
    if both:
        raise SimulationError(
            f"{_and_others(both)} is to train on and to judge on: name other images under `{key}`, "
            "or neither `val` nor `test` to have a quarter held out"
        )
    return pool, parts[key], []


def _without_copies(pool: list[Path], test: list[Path]) -> tuple[list[Path], int]:
    """The pool without files that the test set has too, and how many these were."""
    tested = {_content(path) for path in test}
    kept = [path for path in pool if _content(path) not in tested]
    return kept, len(pool) - len(kept)


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


class _LabelReader:
    """Reads label files and counts what is odd about them."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._without_file = 0
        self._repeated = 0

    def read(self, paths: Sequence[Path]) -> tuple[LabelledImage, ...]:
        return tuple(LabelledImage(path, self._truth(label_path(path))) for path in paths)

    def notes(self) -> list[str]:
        counted = {
            "images have no label file: they count as backgrounds": self._without_file,
            "boxes are there twice: they count once": self._repeated,
        }
        return [f"{count} {what}" for what, count in counted.items() if count]

    def _truth(self, path: Path) -> Boxes:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            self._without_file += 1
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise SimulationError(f"{path} cannot be read ({error}): mend or delete it") from None
        rows = [
            _parse(line, f"{path} line {number}", self._classes)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        once = list(dict.fromkeys(rows))
        self._repeated += len(rows) - len(once)
        table: NDArray[np.float64] = np.array(once, dtype=np.float64).reshape(-1, 5)
        half = table[:, 3:] / 2
        xyxy = np.concatenate([table[:, 1:3] - half, table[:, 1:3] + half], axis=1)
        return Boxes(xyxy.clip(0, 1), table[:, 0].astype(np.intp))


def label_path(image: Path) -> Path:
    """Where the labels of an image are: beside `images` in `labels`, or beside the image.

    >>> label_path(Path("/set/images/train/a.jpg")).as_posix()
    '/set/labels/train/a.txt'
    """
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _parse(line: str, where: str, classes: int) -> tuple[float, ...]:
    """One label: class, centre x, centre y, width, height."""
    try:
        values = tuple(float(text) for text in line.split())
    except ValueError:
        values = ()
    if len(values) != 5:
        raise SimulationError(
            f"{where} must be five numbers (class, centre x, centre y, width, height): {line[:60]}"
        )
    if values[0] not in range(classes):
        raise SimulationError(
            f"{where}: class {values[0]:g} has no name, only 0 to {classes - 1} have"
        )
    x, y, width, height = values[1:]
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    # Written so that NaN fails too.
    inside = all(-_SLACK <= edge <= 1 + _SLACK for edge in edges)
    if not (width > 0 and height > 0 and inside):
        raise SimulationError(
            f"{where}: the box must have an area and lie in the image, in shares of its width and "
            f"height (0 to 1): {line[:60]}"
        )
    return values


def _checked(data: ReplayData) -> ReplayData:
    """The same data with notes on its classes.

    Raises:
        SimulationError: it cannot be replayed.
    """
    if len(data.pool) < 2:
        raise SimulationError(f"the pool has {len(data.pool)} images: there is nothing to choose")
    in_pool, in_test = _class_counts(data.pool), _class_counts(data.test)
    for what, counts in (("pool", in_pool), ("test set", in_test)):
        if not counts:
            raise SimulationError(
                f"no image of the {what} has a box: its labels must lie in `labels` beside `images`"
            )
    notes = list(data.notes)
    for index, name in enumerate(data.class_names):
        if not in_test[index]:
            notes.append(f"the test set has no {name}: it does not count in mAP")
        elif not in_pool[index]:
            notes.append(f"the pool has no {name}: no arm can learn it")
    return ReplayData(data.name, data.class_names, data.pool, data.test, tuple(notes))


def _class_counts(images: Iterable[LabelledImage]) -> Counter[int]:
    return Counter(index for image in images for index in image.truth.class_ids.tolist())


def _and_others(paths: Sequence[Path]) -> str:
    others = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"{paths[0]}{others}"
