from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.errors import SimulationError
from backend.settings import load_settings
from backend.simulate.datasets import read_data
from backend.simulate.plan import ReplayPlan, check_plan, settle
from backend.simulate.start import find_model
from tests.simulate.yolo_set import write_part, write_set, write_yaml


@pytest.fixture
def data_yaml(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def label(data_yaml: Path, text: str, name: str = "train/0.txt") -> None:
    (data_yaml.parent / "labels" / name).write_text(text)


def plan_of(out: Path, model: Path, **changes: object) -> ReplayPlan:
    numbers = {"seeds": 1, "initial": 2, "batch": 2, "rounds": 2, "image_size": 64, "steps": 1}
    given = {"out": out, "model": model, "arms": ("random",), **numbers, **changes}
    return ReplayPlan(**given)  # type: ignore[arg-type]


class TestReading:
    def test_boxes_are_shares_of_the_image(self, data_yaml: Path) -> None:
        label(data_yaml, "1 0.5 0.25 0.5 0.5\n")
        data = read_data(data_yaml)
        truth = data.pool[0].truth
        assert truth.xyxy.tolist() == [[0.25, 0.0, 0.75, 0.5]]
        assert truth.class_ids.tolist() == [1]
        assert (len(data.pool), len(data.test)) == (8, 4)
        assert data.name == "set/data.yaml"

    @pytest.mark.parametrize(
        ("parts", "pool", "test"),
        [
            ({"train": "images/train"}, 6, 2),  # a random quarter of 8
            ({"train": "images/train", "val": "images/test"}, 8, 4),
            ({"train": "images/train", "val": "images/val", "test": "images/test"}, 13, 4),
            ({"train": ["images/train", "images/val"], "test": "images/test"}, 13, 4),
            ({"train": "list.txt", "test": ["images/test/0.png", "images/test/1.png"]}, 3, 2),
        ],
    )
    def test_what_is_not_the_test_set_is_the_pool(
        self, data_yaml: Path, parts: dict[str, object], pool: int, test: int
    ) -> None:
        folder = data_yaml.parent
        write_part(folder, "val", 5)
        lines = ["./images/train/0.png", "images/train/1.png", "", "images/train/2.png"]
        (folder / "list.txt").write_text("\n".join(lines))
        data = read_data(write_yaml(folder, **parts))
        assert (len(data.pool), len(data.test)) == (pool, test)
        assert not {x.path.resolve() for x in data.pool} & {x.path.resolve() for x in data.test}

    def test_a_random_test_set_is_told_and_is_the_same_again(self, data_yaml: Path) -> None:
        path = write_yaml(data_yaml.parent, train="images/train")
        first, again = read_data(path), read_data(path)
        assert [x.path for x in first.test] == [x.path for x in again.test]
        assert any("drawn at random" in note for note in first.notes)

    def test_images_in_both_leave_the_pool_unless_all_are(self, data_yaml: Path) -> None:
        parts = {"train": ["images/train", "images/test/0.png"], "val": "images/test"}
        data = read_data(write_yaml(data_yaml.parent, **parts))
        assert (len(data.pool), len(data.test)) == (8, 4)
        assert "1 images left the pool: they are in `val` too" in data.notes
        path = write_yaml(data_yaml.parent, train="images/train", val="images/train")
        with pytest.raises(SimulationError, match="all images are to train on and to evaluate on"):
            read_data(path)

    def test_copies_of_test_images_leave_the_pool(self, data_yaml: Path) -> None:
        images = data_yaml.parent / "images"
        shutil.copy(images / "test" / "0.png", images / "train" / "copy.png")
        data = read_data(data_yaml)
        assert len(data.pool) == 8
        assert any(note.startswith("1 images left the pool") for note in data.notes)


class TestOddLabels:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cat 0.5 0.5 0.1 0.1", "line 1 is neither five numbers"),
            ("0 0.5 0.5 0.1", "line 1 is neither five numbers"),
            ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.9", "line 1 is neither five numbers"),
            ("0 0.5 0.5 0.1 0.1\n\n2 0.5 0.5 0.1 0.1", "line 3: class 2 has no name, only 0 to 1"),
            ("0.5 0.5 0.5 0.1 0.1", "class 0.5 has no name"),
            ("-1 0.5 0.5 0.1 0.1", "class -1 has no name"),
            ("0 0.5 nan 0.1 0.1", "is not in shares of the image's width"),
            ("0 320 240 64 48", "is not in shares of the image's width"),
            ("0 0.1 0.1 0.5 0.1 0.5 40", "is not in shares of the image's width"),
        ],
    )
    def test_that_cannot_be_read_leave_their_image_out(
        self, data_yaml: Path, text: str, said: str
    ) -> None:
        label(data_yaml, text)
        data = read_data(data_yaml)
        assert len(data.pool) == 7
        (line,) = [note for note in data.notes if "labels cannot be read" in note]
        assert line.startswith("1 images are left out")
        assert said in line
        assert str(data_yaml.parent / "labels" / "train" / "0.txt") in line

    @pytest.mark.parametrize(
        ("text", "boxes", "said"),
        [
            ("0 0.5 0.5 0.5 0.5 0.9", [[0.25, 0.25, 0.75, 0.75]], "1 rows have a sixth number"),
            (
                "1 0.1 0.2 0.5 0.2 0.5 0.7 0.1 0.6",
                [[0.1, 0.2, 0.5, 0.7]],
                "1 polygons became the boxes around them",
            ),
            ("0 0.5 0.5 0 0.1\n0 0.5 0.5 0.5 0.5", [[0.25, 0.25, 0.75, 0.75]], "1 boxes without"),
            ("0 1.005 0.5 0.5 0.5", [[0.755, 0.25, 1.0, 0.75]], "1 boxes reach over the edge"),
            ("\ufeff0 0.5 0.5 0.5 0.5\r\n", [[0.25, 0.25, 0.75, 0.75]], ""),
        ],
        ids=["six columns", "polygon", "no area", "over the edge", "BOM and CRLF"],
    )
    def test_are_mended_and_counted(
        self, data_yaml: Path, text: str, boxes: list[list[float]], said: str
    ) -> None:
        label(data_yaml, text)
        data = read_data(data_yaml)
        np.testing.assert_allclose(data.pool[0].truth.xyxy, boxes)
        notes = [note for note in data.notes if "train" not in note]
        assert [note for note in notes if note.startswith(said)] == notes[:1]

    def test_a_damaged_image_is_left_out(self, data_yaml: Path) -> None:
        damaged = data_yaml.parent / "images" / "train" / "0.png"
        damaged.write_bytes(damaged.read_bytes()[:200])
        (data_yaml.parent / "images" / "train" / "._1.png").write_bytes(b"\x00\x05\x16\x07")
        data = read_data(data_yaml)
        assert len(data.pool) == 7
        (line,) = [note for note in data.notes if "cannot be read" in note]
        assert line.startswith(f"1 images are left out, for they cannot be read ({damaged}: ")

    def test_empty_and_missing_files_are_backgrounds(self, data_yaml: Path) -> None:
        label(data_yaml, "")
        (data_yaml.parent / "labels" / "train" / "1.txt").unlink()
        data = read_data(data_yaml)
        assert [len(image.truth) for image in data.pool[:2]] == [0, 0]
        assert any(note.startswith("1 images have no label file") for note in data.notes)

    def test_a_box_that_is_there_twice_counts_once(self, data_yaml: Path) -> None:
        label(data_yaml, "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
        data = read_data(data_yaml)
        assert len(data.pool[0].truth) == 1
        assert any(note.startswith("1 boxes are there twice") for note in data.notes)

    @pytest.mark.parametrize(("part", "what"), [("train", "pool"), ("test", "test set")])
    def test_none_at_all_are_an_error(self, data_yaml: Path, part: str, what: str) -> None:
        shutil.rmtree(data_yaml.parent / "labels" / part)
        with pytest.raises(SimulationError, match=f"no image of the {what} has a box"):
            read_data(data_yaml)

    def test_a_class_that_is_never_tested_is_told(self, data_yaml: Path) -> None:
        for number in range(4):
            label(data_yaml, "0 0.5 0.5 0.1 0.1", f"test/{number}.txt")
        assert "the test set has no dog: it does not count in mAP" in read_data(data_yaml).notes


class TestOddYaml:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "names no `train` images"),
            ("names: [a]", "names no `train` images"),
            ("train: [a", "is no YAML"),
            ("train: images/train", "must list its classes"),
            ("train: images/train\nnames: {1: a}", "must list its classes"),
            ("train: images/train\nnames: [a, a]", "names the class a twice"),
            ("train: nowhere\nnames: [a]", "nowhere is named but not there"),
            ("train: list.txt\nnames: [a]", r"gone\.png is named but not there"),
            ("train: images/train\nnc: many", "must list its classes"),
        ],
    )
    def test_is_one_line(self, data_yaml: Path, content: str, message: str) -> None:
        (data_yaml.parent / "list.txt").write_text("images/train/gone.png\n")
        data_yaml.write_text(content)
        with pytest.raises(SimulationError, match=message) as caught:
            read_data(data_yaml)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "sizes", "note"),
        [
            ("train: ../images/train\nval: ../images/test\nnames: [cat, dog]", (8, 4), ""),
            ("train: images/train\nvalidation: images/test\nnc: 2", (8, 4), ""),
            (
                "\ufefftrain: images/train\nval: images/test\nnames: {'0': cat, '1': dog}",
                (8, 4),
                "",
            ),
            (
                "train: images/train\nval: images/test\ntest: ../test/images\nnames: [cat, dog]",
                (8, 4),
                "is named under `test` but not there",
            ),
            (
                "path: /content/set\ntrain: images/train\nval: images/test\nnames: [cat, dog]",
                (8, 4),
                "which `path` names, is not there",
            ),
            (
                "train: list.txt\nval: images/test\nnames: [cat, dog]",
                (2, 4),
                r"gone.png is named under `train` but not there",
            ),
        ],
        ids=["beside", "validation, nc", "BOM", "test not exported", "moved", "list of Windows"],
    )
    def test_as_data_sets_lie_in_the_wild(
        self, data_yaml: Path, content: str, sizes: tuple[int, int], note: str
    ) -> None:
        lines = ["images\\train\\0.png", ".\\images\\train\\1.png", "images\\train\\gone.png"]
        (data_yaml.parent / "list.txt").write_text("\r\n".join(lines))
        data_yaml.write_text(content, encoding="utf-8")
        data = read_data(data_yaml)
        assert (len(data.pool), len(data.test)) == sizes
        assert len(data.class_names) == 2
        assert any(note in line for line in data.notes) or not note

    def test_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(SimulationError, match=r"gone\.yaml cannot be read"):
            read_data(tmp_path / "gone.yaml")

    def test_one_class_is_allowed(self, data_yaml: Path) -> None:
        for part, count in (("train", 8), ("test", 4)):
            for number in range(count):
                label(data_yaml, "0 0.5 0.5 0.1 0.1", f"{part}/{number}.txt")
        data_yaml.write_text("train: images/train\ntest: images/test\nnames:\n  0: cat\n")
        assert read_data(data_yaml).boxes_by_class() == {"cat": 8}

    def test_one_image_is_not(self, data_yaml: Path) -> None:
        path = write_yaml(data_yaml.parent, train="images/train/0.png", test="images/test")
        with pytest.raises(SimulationError, match="the pool has 1 images"):
            read_data(path)


class TestPlan:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"arms": ()}, "the strategy random is missing"),
            ({"arms": ("random", "clever")}, "'clever' is unknown: take some of random, "),
            ({"initial": 7}, "more than the 8 images"),
            ({"batch": 100}, "--batch 100 are more than the 8 images"),
            ({"image_size": 100}, "no multiple of 32"),
        ],
    )
    def test_what_does_not_fit_is_told(
        self, data_yaml: Path, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(SimulationError, match=message):
            check_plan(plan_of(tmp_path, data_yaml, **changes), read_data(data_yaml))

    def test_initial_images_may_lack_a_class_but_not_all(
        self, data_yaml: Path, tmp_path: Path
    ) -> None:
        for number in range(8):
            label(data_yaml, "0 0.5 0.5 0.1 0.1", f"train/{number}.txt")
        plan = plan_of(tmp_path, data_yaml, seeds=2)
        notes = check_plan(plan, read_data(data_yaml))
        assert notes == [f"the initial images of seed {seed} lack dog" for seed in range(2)]
        order = np.random.default_rng(0).permutation(8)
        for number in order[:2]:
            label(data_yaml, "", f"train/{number}.txt")
        with pytest.raises(SimulationError, match="initial images of seed 0 have no box"):
            check_plan(plan, read_data(data_yaml))

    def test_rounds_end_with_the_pool(self, data_yaml: Path, tmp_path: Path) -> None:
        plan = plan_of(tmp_path, data_yaml, initial=3, rounds=9)
        assert plan.labels_of("random", 8) == [3, 5, 7]
        assert plan.labels_of("full", 8) == [8]
        growing = replace(plan, batch=2, growth=1.5)
        assert growing.labels_of("random", 20) == [3, 5, 8, 12, 19]
        assert "the pool is used up after 3 of 9 rounds" in check_plan(plan, read_data(data_yaml))

    def test_a_folder_holds_one_replay(self, data_yaml: Path, tmp_path: Path) -> None:
        data, settings = read_data(data_yaml), load_settings()
        plan = plan_of(tmp_path / "out", data_yaml)
        settle(plan, data, settings)
        more = plan_of(tmp_path / "out", data_yaml, seeds=3, rounds=3, arms=("random", "entropy"))
        settle(more, data, settings)
        with pytest.raises(SimulationError, match=r"another batch \(2, not 3\): .*--out"):
            settle(plan_of(tmp_path / "out", data_yaml, batch=3), data, settings)
        label(data_yaml, "1 0.5 0.5 0.1 0.1")
        with pytest.raises(SimulationError, match="another data"):
            settle(plan, read_data(data_yaml), settings)

    @pytest.mark.parametrize("name", ["gone.pt", "gone.yaml", "weights.onnx"])
    def test_a_model_that_is_missing_is_told(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(SimulationError, match=rf"--model {name} (is not there|must be)"):
            find_model(name, load_settings(model_dir=tmp_path))
