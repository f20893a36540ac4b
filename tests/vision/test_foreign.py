"""Exports made by Ultralytics itself, in the formats that users bring."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import WeightsError
from backend.vision.encoder import DetectorEncoder
from backend.vision.picture import Picture
from backend.vision.yolo import YoloDetector, load_detector
from tests.vision import networks

PICTURE = Picture(networks.scene(160, 120), (160, 120))


def export(model: Any, folder: Path, **options: Any) -> Path:
    """Let Ultralytics export a model; its own converters warn of their own future."""
    from ultralytics import YOLO

    yolo = YOLO("yolo11n.yaml")
    model.pt_path = str(folder / "tiny.pt")
    yolo.model = model
    yolo.ckpt_path = model.pt_path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(yolo.export(imgsz=networks.INPUT_SIZE, verbose=False, **options))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        networks.yolo("yolo11n"), tmp_path_factory.mktemp("onnx"), format="onnx", simplify=False
    )


@pytest.fixture(scope="module")
def openvino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    return export(networks.yolo("yolo11n"), folder, format="openvino", dynamic=True)


@pytest.mark.parametrize("kind", ["onnx_file", "openvino_folder"])
def test_detections_are_those_of_the_checkpoint(
    kind: str, request: pytest.FixtureRequest, detector: YoloDetector, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(kind)
    exported = load_detector(path, device="cpu", export_dir=tmp_path)
    assert exported.class_names == networks.CLASS_NAMES
    assert exported.input_size == networks.INPUT_SIZE
    # 160 x 120 fits into 96 x 96 either way, so the inputs are the same.
    [seen] = networks.boxes_of(exported, [exported.prepare(PICTURE)])
    [expected] = networks.boxes_of(detector, [detector.prepare(PICTURE)])
    assert len(seen) == len(expected) > 5
    assert np.abs(seen.class_scores - expected.class_scores).max() < 1e-3
    assert np.abs(seen.xyxy - expected.xyxy).max() < 0.1


def test_a_fixed_shape_is_filled_and_a_dynamic_one_cut(
    onnx_file: Path, openvino_folder: Path, tmp_path: Path
) -> None:
    wide = Picture(networks.scene(320, 120), (320, 120))
    fixed = load_detector(onnx_file, device="cpu", export_dir=tmp_path)
    dynamic = load_detector(openvino_folder, device="cpu", export_dir=tmp_path)
    assert fixed.prepare(wide).pixels.shape == (3, 96, 96)
    assert dynamic.prepare(wide).pixels.shape == (3, 64, 96)


@pytest.mark.parametrize("kind", ["onnx_file", "openvino_folder"])
def test_features_are_those_of_the_checkpoint(
    kind: str, request: pytest.FixtureRequest, detector: YoloDetector, tmp_path: Path
) -> None:
    exported = load_detector(request.getfixturevalue(kind), device="cpu", export_dir=tmp_path)
    prepared = exported.prepare(PICTURE)
    [row] = DetectorEncoder(exported).encode([prepared.pixels])
    [expected] = detector.features([detector.prepare(PICTURE).pixels])
    assert row.shape == expected.shape
    assert float(row @ expected) > 0.9999
    [found] = exported.detect([prepared])
    [theirs] = detector.detect([detector.prepare(PICTURE)])
    assert len(found.detections) > 5
    assert np.allclose(found.image_vector, row, atol=1e-6)
    assert float(found.object_vector @ theirs.object_vector) > 0.999


def test_features_that_are_not_found_are_refused_with_the_remedy(
    openvino_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "renamed"
    shutil.copytree(openvino_folder, copy)
    [graph] = copy.glob("*.xml")
    graph.write_text(graph.read_text().replace("cv2", "layer"))
    detector = load_detector(copy, device="cpu", export_dir=tmp_path)
    with pytest.raises(WeightsError, match="ENCODER=openclip"):
        DetectorEncoder(detector)
    [found] = detector.detect([detector.prepare(PICTURE)])
    assert len(found.detections) > 5
    assert (found.image_vector, found.object_vector) == (None, None)


class TestRefused:
    def test_boxes_already_selected(self, tmp_path: Path) -> None:
        path = export(networks.yolo("yolo26n"), tmp_path, format="openvino", nms=False)
        with pytest.raises(WeightsError, match="end2end=False and without nms"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    def test_without_metadata(self, openvino_folder: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(openvino_folder, copy)
        (copy / "metadata.yaml").unlink()
        with pytest.raises(WeightsError, match="no class names"):
            load_detector(copy, device="cpu", export_dir=tmp_path)

    def test_another_task(self, openvino_folder: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(openvino_folder, copy)
        facts = (copy / "metadata.yaml").read_text()
        (copy / "metadata.yaml").write_text(facts.replace("task: detect", "task: segment"))
        with pytest.raises(WeightsError, match="segment model"):
            load_detector(copy, device="cpu", export_dir=tmp_path)

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.onnx"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(WeightsError, match=r"bad\.onnx cannot be read"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"exactly one \.xml, not 0"):
            load_detector(tmp_path, device="cpu", export_dir=tmp_path)

    def test_other_kinds_of_file(self, tmp_path: Path) -> None:
        path = tmp_path / "model.engine"
        path.write_bytes(b"x")
        with pytest.raises(WeightsError, match="no known kind of weights"):
            load_detector(path, device="cpu", export_dir=tmp_path)
