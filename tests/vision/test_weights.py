from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import WeightsError
from backend.vision.weights import content_hash, find_detector, inside, is_official


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "best.pt").write_bytes(b"weights")
    (tmp_path / "evil.pt").write_bytes(b"code")
    return folder


def no_download(path: Path) -> None:
    raise AssertionError(f"{path} must not be fetched")


class TestAllowed:
    def test_a_file_in_the_folder(self, model_dir: Path) -> None:
        assert find_detector("best.pt", model_dir, download=no_download).name == "best.pt"

    def test_an_absolute_path_into_the_folder(self, model_dir: Path) -> None:
        path = find_detector(str(model_dir / "best.pt"), model_dir, download=no_download)
        assert path == (model_dir / "best.pt").resolve()

    def test_a_link_to_a_file_in_the_folder(self, model_dir: Path) -> None:
        (model_dir / "current.pt").symlink_to(model_dir / "best.pt")
        assert find_detector("current.pt", model_dir).name == "best.pt"

    def test_a_folder_that_is_itself_a_link(self, model_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(model_dir)
        assert find_detector("best.pt", tmp_path / "link").name == "best.pt"

    def test_an_official_name_is_fetched_into_the_folder(self, tmp_path: Path) -> None:
        path = find_detector(
            "yolo11n.pt", tmp_path / "new", download=lambda path: path.write_bytes(b"w") and None
        )
        assert path == (tmp_path / "new" / "yolo11n.pt").resolve()

    def test_an_official_name_that_is_there_is_not_fetched(self, model_dir: Path) -> None:
        (model_dir / "yolo11n.pt").write_bytes(b"w")
        find_detector("yolo11n.pt", model_dir, download=no_download)


class TestRefused:
    @pytest.mark.parametrize("name", ["../evil.pt", "sub/../../evil.pt", "", ".", ".."])
    def test_a_way_out_of_the_folder(self, model_dir: Path, name: str) -> None:
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            find_detector(name, model_dir, download=no_download)

    def test_an_absolute_path_elsewhere(self, model_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            find_detector(str(tmp_path / "evil.pt"), model_dir, download=no_download)

    def test_a_link_out_of_the_folder(self, model_dir: Path, tmp_path: Path) -> None:
        (model_dir / "innocent.pt").symlink_to(tmp_path / "evil.pt")
        with pytest.raises(WeightsError, match="links are followed"):
            find_detector("innocent.pt", model_dir, download=no_download)

    def test_a_linked_folder_out_of_the_folder(self, model_dir: Path, tmp_path: Path) -> None:
        (model_dir / "sub").symlink_to(tmp_path)
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            find_detector("sub/evil.pt", model_dir, download=no_download)

    def test_a_model_folder_that_holds_a_link_out(self, model_dir: Path, tmp_path: Path) -> None:
        (model_dir / "best_openvino_model").mkdir()
        (model_dir / "best_openvino_model" / "best.bin").symlink_to(tmp_path / "evil.pt")
        with pytest.raises(WeightsError, match="links are followed"):
            find_detector("best_openvino_model", model_dir, download=no_download)

    def test_a_neighbour_whose_name_begins_alike(self, model_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "models-2").mkdir()
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            find_detector("../models-2/x.pt", model_dir, download=no_download)

    @pytest.mark.parametrize(
        "name", ["missing.pt", "yolo11n-seg.pt", "sub/yolo11n.pt", "yolo99n.pt", "yolo11n.onnx"]
    )
    def test_a_missing_file_that_is_no_official_name(self, model_dir: Path, name: str) -> None:
        with pytest.raises(WeightsError, match="put the file there"):
            find_detector(name, model_dir, download=no_download)

    @pytest.mark.parametrize("name", ["https://example.org/x.pt", "http:evil.pt", "a\0b.pt"])
    def test_addresses_and_nonsense(self, model_dir: Path, name: str) -> None:
        with pytest.raises(WeightsError):
            find_detector(name, model_dir, download=no_download)

    def test_a_failed_download_says_what_to_do(self, model_dir: Path) -> None:
        def fail(path: Path) -> None:
            raise ConnectionError("no route\nto host")

        with pytest.raises(WeightsError, match="put the file into MODEL_DIR") as caught:
            find_detector("yolo11n.pt", model_dir, download=fail)
        assert "\n" not in str(caught.value)

    def test_a_download_that_brings_nothing(self, model_dir: Path) -> None:
        with pytest.raises(WeightsError, match="no file came"):
            find_detector("yolo11n.pt", model_dir, download=lambda path: None)


@pytest.mark.parametrize(
    "name",
    ["yolov5nu.pt", "yolov5x6u.pt", "yolov8n.pt", "yolov9t.pt", "yolov10b.pt", "yolo11x.pt",
     "yolo12s.pt", "yolo26n.pt"],
)  # fmt: skip
def test_official_detectors(name: str) -> None:
    assert is_official(name)


@pytest.mark.parametrize("name", ["yolo26n-pose.pt", "yolo11n.pt.exe", "x/yolo11n.pt", "sam_b.pt"])
def test_others_are_not(name: str) -> None:
    assert not is_official(name)


def test_content_hash_sees_bytes_and_names_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    before = content_hash(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert content_hash(tmp_path) != before
    assert len(before) == 64


def test_inside_names_the_setting() -> None:
    with pytest.raises(WeightsError, match=r"^CLIP_PRETRAINED="):
        inside("/etc/passwd", Path("models"), setting="CLIP_PRETRAINED")
