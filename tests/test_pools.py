"""The generated pools that active learning is replayed on, and the base model's start."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from backend.errors import SettingsError
from backend.simulate.datasets import read_data
from benchmarks.base_model import write_untrained
from benchmarks.pools import Drawing, Mix, main, write_bccd, write_pool
from benchmarks.scenes import Scene
from benchmarks.shapes import BASE_KINDS, POOL_KINDS


def read_labels(folder: Path, part: str) -> dict[str, list[list[float]]]:
    return {
        path.stem: [[float(x) for x in line.split()] for line in path.read_text().splitlines()]
        for path in sorted((folder / "labels" / part).glob("*.txt"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but data.yaml, which names the folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pools")
    sizes = {"A": 40, "B": 80, "C": 80}
    return {
        kind: write_pool(kind, root / kind, images=images, test=30, seed=3).parent
        for kind, images in sizes.items()
    }


@pytest.mark.parametrize("kind", ["A", "B", "C"])
def test_a_pool_without_images_is_an_empty_data_set(tmp_path, kind):
    data = yaml.safe_load(write_pool(kind, tmp_path / "p", images=0, test=0).read_text())
    for part in ("train", "val"):
        assert list((Path(data["path"]) / data[part]).iterdir()) == []


@pytest.mark.parametrize(("kind", "images"), [("A", 40), ("B", 80), ("C", 80)])
def test_a_pool_is_a_yolo_data_set(pools, kind, images):
    folder = pools[kind]
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data["names"] == list(POOL_KINDS)
    assert Path(data["path"]) == folder
    for part, count in (("train", images), ("test", 30)):
        pictures = sorted((folder / "images" / part).glob("*.jpg"))
        labels = read_labels(folder, part)
        assert [path.stem for path in pictures] == list(labels)
        assert len(pictures) == count
        assert {cv2.imread(str(path)).shape for path in pictures} == {(128, 128, 3)}
        for row in (row for rows in labels.values() for row in rows):
            class_id, x, y, width, height = row
            assert class_id in range(10)
            assert min(width, height) >= 5 / 128 - 1e-6
            assert x - width / 2 >= -1e-6
            assert x + width / 2 <= 1 + 1e-6
            assert y - height / 2 >= -1e-6
            assert y + height / 2 <= 1 + 1e-6


def test_a_replay_reads_a_pool_and_holds_out_its_test_set(pools):
    data = read_data(pools["A"] / "data.yaml")
    assert (len(data.pool), len(data.test)) == (40, 30)
    assert {image.path.parent.name for image in data.test} == {"test"}


def test_every_image_of_a_has_objects_and_most_of_b_have_none(pools):
    def empty(kind: str, part: str) -> float:
        return float(np.mean([not rows for rows in read_labels(pools[kind], part).values()]))

    assert empty("A", "train") == empty("A", "test") == 0
    assert 0.65 < empty("B", "train") < 0.92
    assert 0.65 < empty("C", "train") < 1
    assert 0 < empty("B", "test") < 0.45


def test_classes_are_drawn_as_the_mix_says():
    def shares(mix: Mix) -> np.ndarray:
        drawing = Drawing(POOL_KINDS, 64)
        counts = Counter(
            int(class_id)
            for _, _, frame in drawing.frames(mix, 120, [5])
            for class_id in frame.class_ids
        )
        return np.asarray([counts[index] for index in range(10)]) / counts.total()

    balanced, tailed = shares(Mix()), shares(Mix(exponent=1.3))
    np.testing.assert_allclose(balanced, 0.1, atol=0.06)
    weights = np.arange(1, 11) ** -1.3
    np.testing.assert_allclose(tailed, weights / weights.sum(), atol=0.09)


@pytest.mark.parametrize("kind", ["A", "C"])
def test_same_seed_same_files_and_fewer_are_a_prefix(pools, tmp_path, kind):
    again = contents(write_pool(kind, tmp_path / "p", images=15, test=4, seed=3).parent)
    whole = contents(pools[kind])
    again.pop("sequences.json", None)
    assert len(again) == 2 * (15 + 4)
    assert all(whole[name] == data for name, data in again.items())
    other = contents(write_pool(kind, tmp_path / "q", images=15, test=4, seed=4).parent)
    assert not {data for data in again.values() if data} & set(other.values())
    assert not {data for name, data in whole.items() if "/train/" in name and data} & {
        data for name, data in whole.items() if "/test/" in name and data
    }


def test_sequences_are_near_duplicates_and_named(pools):
    folder = pools["C"]
    sequences = json.loads((folder / "sequences.json").read_text())
    stems = [stem for frames in sequences.values() for stem in frames]
    assert sorted(stems) == list(read_labels(folder, "train"))
    assert all(stem.startswith(f"{key}-") for key, frames in sequences.items() for stem in frames)
    assert all(8 <= len(frames) <= 12 for frames in list(sequences.values())[:-1])
    assert not (pools["B"] / "sequences.json").exists()

    small = {
        stem: cv2.resize(
            cv2.imread(str(folder / "images" / "train" / f"{stem}.jpg")), (12, 12),
            interpolation=cv2.INTER_AREA,
        ).astype(int)
        for stem in stems
    }  # fmt: skip
    firsts = [frames[0] for frames in sequences.values()]
    for frames in sequences.values():
        across = min(
            np.abs(small[frames[0]] - small[other]).mean() for other in firsts if other != frames[0]
        )
        for stem in frames[1:]:
            assert 0 < np.abs(small[frames[0]] - small[stem]).mean() < across


def test_boxes_lie_around_what_is_seen():
    """The same scene with and without its object differs there, and nowhere else."""
    checked = 0
    for seed in range(12):
        scene = Scene(
            128, POOL_KINDS, np.asarray([seed % 10]), hard=False, rng=np.random.default_rng(seed)
        )
        frame = scene.frame()
        if not len(frame.class_ids):
            continue
        scene._things = [thing for thing in scene._things if thing.class_id < 0]
        without = cv2.imdecode(np.frombuffer(scene.frame().jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        seen = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        changed = cv2.GaussianBlur(cv2.absdiff(seen, without).astype(np.float32), (0, 0), 1.5)
        left, top, right, bottom = (frame.xyxy[0] * 128).round().astype(int)
        inside = changed[top:bottom, left:right].mean()
        changed[max(0, top - 14) : bottom + 14, max(0, left - 14) : right + 14] = np.nan
        assert inside > 1.5 * np.nanmean(changed)
        checked += 1
    assert checked >= 8


def test_the_base_has_learned_other_classes():
    assert not set(POOL_KINDS) & set(BASE_KINDS)
    shapes = [{kind.shape for kind in kinds.values()} for kinds in (POOL_KINDS, BASE_KINDS)]
    assert not shapes[0] & shapes[1]


@pytest.mark.parametrize("name", [*POOL_KINDS, *BASE_KINDS])
def test_every_class_can_be_drawn_and_found(name):
    kinds = {name: {**POOL_KINDS, **BASE_KINDS}[name]}
    found = [len(frame.class_ids) for _, _, frame in Drawing(kinds, 128).frames(Mix(), 3, [1])]
    assert min(found) >= 1
    assert sum(found) >= 4


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        write_pool("A", tmp_path, images=1, test=1)
    assert main(["A", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def photographs(tmp_path) -> Path:
    source = tmp_path / "photographs"
    for kind in ("images", "labels"):
        (source / kind).mkdir(parents=True)
    for number in range(6):
        (source / "images" / f"{number}.jpg").write_bytes(bytes([number]))
        (source / "labels" / f"{number}.txt").write_text(f"{number % 3} 0.5 0.5 0.1 0.1\n")
    return source


def test_no_photographs_is_said_with_the_remedy(tmp_path):
    with pytest.raises(SettingsError, match="--source"):
        write_bccd(tmp_path / "out", source=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_photographs_are_split_once_and_for_all(tmp_path, photographs):
    folder = write_bccd(tmp_path / "out", source=photographs, test=2).parent
    parts = [set(read_labels(folder, part)) for part in ("train", "test")]
    assert [len(part) for part in parts] == [4, 2]
    assert parts[0] | parts[1] == {str(number) for number in range(6)}
    for stem in parts[1]:
        assert (folder / "images" / "test" / f"{stem}.jpg").read_bytes() == bytes([int(stem)])
    again = write_bccd(tmp_path / "again", source=photographs, test=2).parent
    assert contents(again) == contents(folder)


def test_a_test_set_of_everything_is_refused(tmp_path, photographs):
    with pytest.raises(SettingsError, match="leaves nothing"):
        write_bccd(tmp_path / "out", source=photographs, test=6)


def test_the_untrained_start_is_narrow_and_repeatable(tmp_path):
    paths = [tmp_path / name for name in ("one.pt", "two.pt", "other.pt")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_untrained(path, width=0.125, classes=13, side=128, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a dependency says at import is not ours
        import torch
    states = [
        torch.load(path, map_location="cpu", weights_only=False)["model"].state_dict()
        for path in paths
    ]
    assert sum(value.numel() for value in states[0].values()) < 1e6
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
