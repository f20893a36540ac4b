"""A labelled YOLO data set -> a pool to pick from and a test set, checked.

Nothing here knows which images show the same scene: where near-duplicates of pool images are in
the test set, every arm's figures are too high, and all alike. Files that are the same to the last
byte are found, and leave the pool.

Glossary: M boxes of one image, C classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ImageError, SimulationError
from backend.simulate.labels import LabelReader, label_path
from backend.training.matching import Boxes
from backend.vision.picture import decode
from backend.vision.weights import short_hash

__all__ = ["LabelledImage", "ReplayData", "read_data"]

_ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_RANDOM_TEST_SHARE = 0.25


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
        test: the images to evaluate on; none of them is in the pool.
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
    """Read a data set as Ultralytics does, images and labels.

    The test set is what the YAML names as `test`, else as `val`, else a quarter of the images,
    drawn at random. The pool is everything else that it names. One class, empty label files and
    images without one (backgrounds) are allowed. What cannot be used is left out and counted in
    the notes; refused is only what leaves nothing to replay.

    Args:
        data_yaml: Ultralytics' format: `path`, `train`, `val` (or `validation`), `test`, and
            `names` or `nc`. Each part is a folder, an image, a text file with one image a line,
            or a list of such. The labels of `images/x.jpg` are in `labels/x.txt`.
        seed: of the random test set.

    Raises:
        SimulationError: the first thing that leaves nothing to replay, in one line.
    """
    content = _read_yaml(data_yaml)
    class_names = _class_names(content, data_yaml)
    parts, notes = _parts(content, data_yaml)
    pool_paths, test_paths, split_notes = _split(parts, data_yaml, seed)
    files = _Files()
    test_paths = files.readable(test_paths)
    pool_paths = files.without_copies(files.readable(pool_paths), test_paths)
    reader = LabelReader(len(class_names))
    data = ReplayData(
        name=f"{data_yaml.absolute().parent.name}/{data_yaml.name}",
        class_names=class_names,
        pool=_labelled(reader, pool_paths),
        test=_labelled(reader, test_paths),
        notes=(*notes, *split_notes, *files.notes(), *reader.notes()),
    )
    return _checked(data)


def _labelled(reader: LabelReader, paths: Sequence[Path]) -> tuple[LabelledImage, ...]:
    read = ((path, reader.read(label_path(path))) for path in paths)
    return tuple(LabelledImage(path, truth) for path, truth in read if truth is not None)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SimulationError(f"{path} cannot be read ({error.strerror}): name a YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SimulationError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.get("train"):
        raise SimulationError(f"{path} names no `train` images: it must be a YOLO data set")
    return content


def _class_names(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if names is None and isinstance(content.get("nc"), int):
        names = [f"class_{index}" for index in range(content["nc"])]
    if isinstance(names, dict):
        by_number = {str(index): name for index, name in names.items()}
        numbers = [str(index) for index in range(len(by_number))]
        names = [by_number[n] for n in numbers] if set(by_number) == set(numbers) else None
    if not isinstance(names, list) or not names:
        raise SimulationError(f"{path} must list its classes under `names`, numbered from 0")
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name, count in Counter(texts).items() if count > 1)
        raise SimulationError(f"{path} names the class {twice} twice: give each its own name")
    return texts


def _parts(content: Mapping[str, Any], data_yaml: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The images of each part that is there, and what is to be said of the others.

    Raises:
        SimulationError: there are no `train` images.
    """
    folder = data_yaml.absolute().parent
    root = folder / str(content.get("path") or "")
    notes = []
    if not root.is_dir():
        notes.append(f"the folder {root}, which `path` names, is not there: {folder} is taken")
        root = folder
    named = {**content, "val": content.get("val") or content.get("validation")}
    parts = {}
    for key in ("train", "val", "test"):
        if not named.get(key):
            continue
        found, missing = _image_paths(named[key], root)
        if found:
            parts[key] = found
        if missing:
            notes.append(f"{_and_others(missing)} is named under `{key}` but not there: left out")
        if key == "train" and not found:
            raise SimulationError(
                f"{_and_others(missing) if missing else root} is named but not there, or holds no "
                "images: correct `train`"
            )
    return parts, notes


def _image_paths(named: Any, root: Path) -> tuple[list[Path], list[Path]]:
    """The images of one part of the data set, sorted, each once; and what is not there."""
    found: set[Path] = set()
    for entry in named if isinstance(named, list) else [named]:
        path = _entry(root, str(entry))
        if path.is_dir():
            found.update(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS)
        elif path.suffix == ".txt" and path.is_file():
            found.update(_listed(path, root))
        else:
            found.add(path)
    # What macOS leaves beside each file on disks of others.
    images = {path for path in found if not path.name.startswith("._")}
    missing = {path for path in images if not path.is_file()}
    return sorted(images - missing), sorted(missing)


def _entry(root: Path, entry: str) -> Path:
    """An entry of the YAML. Exports of Roboflow name what is beside the YAML as `../train`."""
    path = root / entry
    if not path.exists() and entry.startswith("../"):
        return root / entry.removeprefix("../")
    return path


def _listed(path: Path, root: Path) -> Iterator[Path]:
    """The images in a list; as in Ultralytics' reading, "./" is the list's own folder."""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        image = line.strip().replace("\\", "/")
        if image:
            yield (path.parent if image.startswith("./") else root) / image


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
    both = set(pool) & set(parts[key])
    if both == set(pool):
        raise SimulationError(
            f"all images are to train on and to evaluate on: name other images under `{key}`, or "
            "neither `val` nor `test` to have a quarter held out"
        )
    notes = [f"{len(both)} images left the pool: they are in `{key}` too"] if both else []
    return sorted(set(pool) - both), parts[key], notes


class _Files:
    """Reads image files once, to the last pixel, and counts what is odd about them."""

    def __init__(self) -> None:
        self._content: dict[Path, bytes] = {}
        self._damaged: list[str] = []
        self._copies = 0

    def readable(self, paths: Sequence[Path]) -> list[Path]:
        """Those of `paths` that hold an image."""
        with ThreadPoolExecutor() as pool:
            for path, found in zip(paths, pool.map(_content, paths), strict=True):
                if isinstance(found, bytes):
                    self._content[path] = found
                else:
                    self._damaged.append(f"{path}: {found}")
        return [path for path in paths if path in self._content]

    def without_copies(self, pool: Sequence[Path], test: Sequence[Path]) -> list[Path]:
        """The pool without files that the test set has too."""
        tested = {self._content[path] for path in test}
        kept = [path for path in pool if self._content[path] not in tested]
        self._copies += len(pool) - len(kept)
        return kept

    def notes(self) -> list[str]:
        """What was left out, one line each."""
        notes = []
        if self._damaged:
            first = "the first: " if len(self._damaged) > 1 else ""
            notes.append(
                f"{len(self._damaged)} images are left out, for they cannot be read "
                f"({first}{self._damaged[0]})"
            )
        if self._copies:
            notes.append(f"{self._copies} images left the pool: the test set has the same files")
        return notes


def _content(path: Path) -> bytes | ImageError:
    """A hash of a file, or why it holds no image."""
    try:
        data = path.read_bytes()
        decode(data, long_side=1)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(str(error.strerror))
    return hashlib.sha256(data).digest()


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
