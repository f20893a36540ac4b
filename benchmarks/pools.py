"""Labelled pools to replay active learning on: `python -m benchmarks.pools KIND OUT`.

A     balanced: ten classes equally often, objects in every image, no duplicates.
B     long-tailed: class frequencies by Zipf's law (exponent 1.3), 80% of the images hold clutter
      only.
C     redundant: as B, but taken as sequences of about ten near-duplicates; `sequences.json` maps
      the name of each sequence to its file stems, which begin with that name.
bccd  the 364 blood-cell photographs of the BCCD data set, 264 to label and 100 to test on.

Each is a YOLO data set: `images/train` is the pool, `images/test` the test set, `labels` beside
them, and `data.yaml`. The same arguments give the same files, and fewer images are a prefix of
more.

The test sets are independent scenes, no two of which are near-duplicates. That of A is drawn like
A. That of B and C holds what a user of such a pool cares about: mAP gives each class the same
weight, so the rarest must be there often enough to be measured (exponent 0.5 instead of 1.3: at
least 6% of the objects), and false alarms on backgrounds count, so a fifth of its images have no
objects.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import HardestFirstError, SettingsError
from benchmarks.machine import progress
from benchmarks.scenes import Frame, Scene
from benchmarks.shapes import POOL_KINDS, Kind

SIDE = 128
"""Width and height of the pictures in pixels."""

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
_BCCD_CLASSES = ("RBC", "WBC", "Platelets")
_HARD = 0.25  # share of the scenes that are dim, blurred, littered or in shadow


@dataclass(frozen=True)
class Mix:
    """What a set of scenes holds.

    Args:
        exponent: of Zipf's law: class k (from 1) is drawn with weight k ** -exponent; 0 = balanced.
        empty: 0..1, share of the scenes without objects.
        lengths: fewest and most frames of a scene; (1, 1) = no near-duplicates.
    """

    exponent: float = 0.0
    empty: float = 0.0
    lengths: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Pool:
    """A generated pool: how many pictures of what.

    Args:
        train: what the pool holds.
        test: what the test set holds.
        images: pictures in the pool when no other number is asked for.
    """

    train: Mix
    test: Mix
    images: int


_TAILED_TEST = Mix(exponent=0.5, empty=0.2)

POOLS: Mapping[str, Pool] = {
    "A": Pool(Mix(), Mix(), images=2000),
    "B": Pool(Mix(exponent=1.3, empty=0.8), _TAILED_TEST, images=3000),
    "C": Pool(Mix(exponent=1.3, empty=0.8, lengths=(8, 12)), _TAILED_TEST, images=3000),
}
"""The generated pools by the letter they are asked for by."""


def write_pool(
    kind: str,
    folder: Path,
    *,
    images: int | None = None,
    test: int = 1000,
    seed: int = 0,
    side: int = SIDE,
) -> Path:
    """Draw a pool and its test set. On one core, about 20 ms a picture of 128 pixels.

    Args:
        kind: "A", "B" or "C".
        folder: where to; must not hold a data set yet.
        images: pictures in the pool; None: as many as `POOLS` says.
        test: pictures in the test set.
        seed: another seed gives other pictures.
        side: width and height of the pictures in pixels.

    Returns:
        The data.yaml.

    Raises:
        SettingsError: there is a data set already.
    """
    pool = POOLS[kind]
    _check_new(folder)
    draw = Drawing(POOL_KINDS, side)
    wanted = pool.images if images is None else images
    sequences = write_frames(folder, "train", draw.frames(pool.train, wanted, [seed, 0]))
    write_frames(folder, "test", draw.frames(pool.test, test, [seed, 1]))
    if pool.train.lengths[1] > 1:
        (folder / "sequences.json").write_text(json.dumps(sequences, indent=1))
    return write_data_yaml(folder, list(POOL_KINDS))


@dataclass(frozen=True)
class Drawing:
    """Draws frames of one set of classes.

    Args:
        kinds: class name -> what it is, in the order of the class numbers.
        side: width and height of the frames in pixels.
    """

    kinds: Mapping[str, Kind]
    side: int

    def frames(self, mix: Mix, count: int, seed: list[int]) -> Iterator[tuple[str, str, Frame]]:
        """`count` frames, each with the name of its scene and its own."""
        number = done = 0
        while done < count:
            scene = f"seq{number:04d}"
            for place, frame in enumerate(self._scene(mix, np.random.default_rng([*seed, number]))):
                if done < count:
                    single = mix.lengths[1] == 1
                    yield scene, scene if single else f"{scene}-{place:02d}", frame
                    done += 1
            number += 1

    def _scene(self, mix: Mix, rng: np.random.Generator) -> list[Frame]:
        """All frames of one scene; an object can be seen in the first, where there is any."""
        length = int(rng.integers(mix.lengths[0], mix.lengths[1] + 1))
        class_ids = self._class_ids(mix, rng)
        while True:
            hard = bool(rng.random() < _HARD)
            scene = Scene(self.side, self.kinds, class_ids, hard=hard, rng=rng)
            first = scene.frame(shake=0.0)
            if len(first.class_ids) or not len(class_ids):
                return [first, *(scene.frame(shake=1.0) for _ in range(length - 1))]

    def _class_ids(self, mix: Mix, rng: np.random.Generator) -> NDArray[np.int64]:
        if rng.random() < mix.empty:
            return np.zeros(0, np.int64)
        weights = np.arange(1, len(self.kinds) + 1) ** -mix.exponent
        objects = int(rng.integers(2, 7))
        return rng.choice(len(weights), size=objects, p=weights / weights.sum())


def write_frames(
    folder: Path, part: str, frames: Iterator[tuple[str, str, Frame]]
) -> dict[str, list[str]]:
    """Write frames as `images/PART/NAME.jpg` and `labels/PART/NAME.txt`.

    Returns:
        The name of each scene -> the names of its frames.
    """
    for kind in ("images", "labels"):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    scenes: dict[str, list[str]] = {}
    for done, (scene, name, frame) in enumerate(frames, start=1):
        scenes.setdefault(scene, []).append(name)
        (folder / "images" / part / f"{name}.jpg").write_bytes(frame.jpeg)
        (folder / "labels" / part / f"{name}.txt").write_text(_label(frame))
        if done % 500 == 0:
            progress(f"{part}: {done} pictures drawn")
    return scenes


def _label(frame: Frame) -> str:
    """One line a box: class, centre x, centre y, width, height, relative to the picture."""
    low, high = frame.xyxy[:, :2], frame.xyxy[:, 2:]
    boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
    rows = zip(frame.class_ids, boxes, strict=True)
    return "".join(f"{index} {' '.join(f'{x:.6f}' for x in row)}\n" for index, row in rows)


def write_data_yaml(folder: Path, names: list[str]) -> Path:
    """Describe what lies in `folder`, last of all: a folder with this file is whole."""
    # Absolute: Ultralytics looks for a relative path in its own folder of data sets.
    content = {
        "path": str(folder.absolute()),
        "train": "images/train",
        "val": "images/test",
        "names": names,
    }
    path = folder / "data.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps(content, indent=1))
    return path


def write_bccd(folder: Path, *, source: Path = BCCD, test: int = 100, seed: int = 0) -> Path:
    """Copy the BCCD photographs, split at random into a pool and a test set.

    Args:
        folder: where to; must not hold a data set yet.
        source: a folder with `images/*.jpg` and `labels/*.txt`.
        test: photographs in the test set; the others are the pool.
        seed: of the split.

    Returns:
        The data.yaml.

    Raises:
        SettingsError: there is a data set in `folder` already, or none in `source`, or it has no
            more than `test` photographs.
    """
    _check_new(folder)
    photographs = sorted((source / "images").glob("*.jpg"))
    if not photographs:
        raise SettingsError(
            f"no photographs in {source / 'images'}: name the folder of the BCCD data set "
            "(images/*.jpg, labels/*.txt) with --source"
        )
    if len(photographs) <= test:
        raise SettingsError(f"--test {test} leaves nothing of the {len(photographs)} photographs")
    tested = set(np.random.default_rng(seed).permutation(len(photographs))[:test].tolist())
    for part in ("train", "test"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
    for index, photograph in enumerate(photographs):
        part = "test" if index in tested else "train"
        label = source / "labels" / f"{photograph.stem}.txt"
        shutil.copyfile(photograph, folder / "images" / part / photograph.name)
        shutil.copyfile(label, folder / "labels" / part / label.name)
    return write_data_yaml(folder, list(_BCCD_CLASSES))


def _check_new(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty: name a new folder, or remove this one")


def main(arguments: list[str]) -> int:
    """Write the pool that the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=[*POOLS, "bccd"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, help="pictures in the pool (A, B, C)")
    parser.add_argument("--test", type=int, help="pictures in the test set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels (A, B, C)")
    parser.add_argument(
        "--source", type=Path, default=BCCD, help="folder of the photographs (bccd)"
    )
    given = parser.parse_args(arguments)
    try:
        if given.kind == "bccd":
            test = 100 if given.test is None else given.test
            path = write_bccd(given.out, source=given.source, test=test, seed=given.seed)
        else:
            test = 1000 if given.test is None else given.test
            path = write_pool(
                given.kind, given.out, images=given.images, test=test, seed=given.seed,
                side=given.side,
            )  # fmt: skip
    except HardestFirstError as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
