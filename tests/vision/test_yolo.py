"""Real networks of every YOLO family, small and random, through every way of running them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.detections import Detections
from backend.errors import WeightsError
from backend.vision.conversion import convert
from backend.vision.detector import Detector
from backend.vision.engines import OpenVinoEngine, TorchEngine
from backend.vision.picture import Picture
from backend.vision.yolo import InputSpec, YoloDetector, load_detector, network_of, read_checkpoint
from tests.vision import networks

FAMILIES = ["yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"]
NMS_FREE = ["yolov10n", "yolo26n"]
SPEC = InputSpec((networks.INPUT_SIZE, networks.INPUT_SIZE), 32)


def picture(width: int = 160, height: int = 120, seed: int = 0) -> Picture:
    return Picture(networks.scene(width, height, seed), (width, height))


def detector_of(engine: Any) -> YoloDetector:
    return YoloDetector(engine, weights_hash="test", class_names=networks.CLASS_NAMES, spec=SPEC)


def in_torch(path: Path) -> YoloDetector:
    return detector_of(TorchEngine(read_checkpoint(path, dynamic=False).module, "cpu"))


def in_openvino(path: Path) -> YoloDetector:
    return detector_of(OpenVinoEngine(convert(read_checkpoint(path, dynamic=True))))


def assert_same(left: Detections, right: Detections) -> None:
    assert left.peak_score == pytest.approx(right.peak_score, abs=1e-3)
    assert_matched(_rows(left), _rows(right))


def _rows(seen: Detections) -> np.ndarray:
    """(N, 4 + C) boxes in pixels and class scores in per cent."""
    return np.hstack([seen.xyxy, 100 * seen.class_scores])


def assert_matched(left: np.ndarray, right: np.ndarray) -> None:
    """Each row has a counterpart, to a few tenths; ties come in any order and decide one NMS."""
    assert abs(len(left) - len(right)) <= 1
    assert min(len(left), len(right)) > 20
    distance = np.abs(left[:, None] - right).max(axis=2).min(axis=1)
    assert np.mean(distance < 0.3) > 0.98


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_openvino_and_ultralytics_agree(family: str, tmp_path: Path) -> None:
    path = networks.save(networks.yolo(family), tmp_path / "net.pt")
    seen = picture()
    torch_detector, openvino_detector = in_torch(path), in_openvino(path)
    [here] = networks.boxes_of(torch_detector, [torch_detector.prepare(seen)])
    [there] = networks.boxes_of(openvino_detector, [openvino_detector.prepare(seen)])
    assert_same(here, there)

    from ultralytics import YOLO

    [result] = YOLO(path).predict(
        seen.pixels[..., ::-1], imgsz=networks.INPUT_SIZE, conf=0.05, iou=0.7, verbose=False
    )
    boxes = result.boxes.xyxy.numpy()
    visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    theirs = np.column_stack([boxes, 100 * result.boxes.conf, 100 * result.boxes.cls])[visible]
    ours = np.column_stack([here.xyxy, 100 * here.confidence, 100 * here.class_ids])
    assert_matched(ours, theirs)


@pytest.mark.parametrize("family", NMS_FREE)
def test_nms_free_models_that_were_fused_give_their_one_to_one_scores(family: str) -> None:
    model = networks.yolo(family)
    model.end2end = True
    prepared = detector_of(engine=None).prepare(picture())
    rows = _one_to_one_rows(model, prepared.pixels)
    model.fuse(verbose=False)
    assert model.model[-1].cv2 is None
    network = network_of(model, name="fused", dynamic=False).module
    [seen] = networks.boxes_of(detector_of(TorchEngine(network, "cpu")), [prepared])
    theirs = np.column_stack([prepared.letterbox.to_image(rows[:, :4]), 100 * rows[:, 4:]])
    ours = np.column_stack([seen.xyxy, 100 * seen.confidence, 100 * seen.class_ids])
    # Theirs are the best 189 pairs of a box and a class; weaker boxes have no counterpart.
    ours = ours[seen.confidence > rows[:, 4].min()]
    assert len(ours) > 20
    assert np.abs(ours[:, None] - theirs).max(axis=2).min(axis=1).max() < 0.3
    assert (seen.class_scores > 0).all()


def _one_to_one_rows(model: Any, pixels: np.ndarray) -> np.ndarray:
    """(189, 6) left, top, right, bottom, score, class: Ultralytics' own end-to-end output."""
    import torch

    with torch.inference_mode():
        output = model(torch.from_numpy(pixels)[None].float() / 255)
    rows: np.ndarray = output[0][0].numpy()
    return rows


class TestBatches:
    def test_images_of_any_shape_in_order(self, detector: YoloDetector) -> None:
        pictures = [picture(160, 120, 1), picture(320, 120, 2), picture(96, 200, 3)] * 3
        batch = [detector.prepare(one) for one in pictures]
        together = networks.boxes_of(detector, batch)
        assert [seen.image_size for seen in together] == [one.size for one in pictures]
        for prepared, seen in zip(batch, together, strict=True):
            assert_same(seen, networks.boxes_of(detector, [prepared])[0])

    def test_torch_groups_them_by_shape(self, checkpoint: Path) -> None:
        detector = in_torch(checkpoint)
        batch = [detector.prepare(picture(*size)) for size in [(160, 120), (320, 120), (160, 120)]]
        for prepared, seen in zip(batch, networks.boxes_of(detector, batch), strict=True):
            assert_same(seen, networks.boxes_of(detector, [prepared])[0])

    def test_empty(self, detector: YoloDetector) -> None:
        assert networks.boxes_of(detector, []) == []
        assert len(detector.features([])) == 0

    def test_an_engine_goes_on_after_a_bad_image(self, detector: YoloDetector) -> None:
        good = detector.prepare(picture())
        with pytest.raises(RuntimeError):
            detector.features([good.pixels, np.zeros((5, 7, 9), dtype=np.uint8), good.pixels])
        assert len(networks.boxes_of(detector, [good])[0]) > 5


class TestContract:
    def test_facts_come_from_the_checkpoint(self, detector: YoloDetector) -> None:
        contract: Detector = detector
        assert contract.class_names == networks.CLASS_NAMES
        assert contract.input_size == networks.INPUT_SIZE
        assert contract.floor == 0.05
        assert len(contract.version) == 12
        assert int(contract.version, 16) >= 0

    def test_the_version_follows_the_weights_and_not_the_name(
        self, detector: YoloDetector, checkpoint: Path, tmp_path: Path, export_dir: Path
    ) -> None:
        copy = tmp_path / "another name.pt"
        copy.write_bytes(checkpoint.read_bytes())
        same = load_detector(copy, device="cpu", export_dir=export_dir)
        assert same.version == detector.version
        assert detector_of(engine=None).version != detector.version

    def test_padding_is_cut_to_the_stride(self, detector: YoloDetector) -> None:
        assert detector.prepare(picture(160, 120)).pixels.shape == (3, 96, 96)
        assert detector.prepare(picture(320, 120)).pixels.shape == (3, 64, 96)

    def test_features_are_unit_rows_and_tell_images_apart(self, detector: YoloDetector) -> None:
        batch = [detector.prepare(picture(seed=seed)) for seed in (1, 2, 1)]
        found = detector.detect(batch)
        features = np.array([one.image_vector for one in found])
        assert features.dtype == np.float32
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
        assert np.allclose(features[0], features[2], atol=1e-6)
        assert features[0] @ features[1] < 0.999
        assert np.allclose(features, detector.features([one.pixels for one in batch]), atol=1e-6)
        objects = np.array([one.object_vector for one in found])
        assert np.allclose(np.linalg.norm(objects, axis=1), 1, atol=1e-5)
        assert np.allclose(objects[0], objects[2], atol=1e-6)
        assert objects[0] @ objects[1] < 0.999
        assert objects[0] @ features[0] < 0.999


class TestCheckpoints:
    @pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 half a zip"])
    def test_damaged(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "bad.pt"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad\.pt cannot be loaded") as caught:
            load_detector(path, device="cpu", export_dir=tmp_path)
        assert "\n" not in str(caught.value)

    def test_truncated(self, checkpoint: Path, tmp_path: Path) -> None:
        path = tmp_path / "half.pt"
        path.write_bytes(checkpoint.read_bytes()[:100_000])
        with pytest.raises(WeightsError, match="damaged"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    def test_a_state_dict_is_no_checkpoint(self, tmp_path: Path) -> None:
        import torch

        path = tmp_path / "state.pt"
        torch.save({"conv.weight": torch.zeros(3)}, path)
        with pytest.raises(WeightsError, match="no Ultralytics checkpoint"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    @pytest.mark.parametrize(
        ("kind", "yaml"),
        [
            ("SegmentationModel", "yolo11n-seg.yaml"),
            ("PoseModel", "yolo11n-pose.yaml"),
            ("OBBModel", "yolo11n-obb.yaml"),
            ("ClassificationModel", "yolo11n-cls.yaml"),
        ],
    )
    def test_other_tasks_are_refused(self, kind: str, yaml: str, tmp_path: Path) -> None:
        from backend.vision.ultralytics_import import import_ultralytics

        import_ultralytics()
        from ultralytics.nn import tasks

        model = getattr(tasks, kind)(yaml, verbose=False)
        path = networks.save(model, tmp_path / "other.pt")
        with pytest.raises(WeightsError, match="must be a YOLO detection model"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"names": {0: "bolt", 1: "nut", 3: "washer"}}, "for 3 classes but names 3, not numb"),
            ({"names": {0: "bolt", 1: "nut"}}, "gives scores for 3 classes but names 2"),
            (
                {"names": ["bolt", "nut", "washer", "gear"]},
                "scores for 3 classes but names 4",
            ),
        ],
        ids=["gap", "too few", "too many"],
    )
    def test_names_that_do_not_fit_the_scores_are_one_line(
        self, change: dict[str, Any], said: str, tmp_path: Path
    ) -> None:
        model = networks.yolo("yolo11n")
        for name, value in change.items():
            setattr(model, name, value)
        path = networks.save(model, tmp_path / "odd.pt")
        with pytest.raises(WeightsError, match=said) as caught:
            load_detector(path, device="cpu", export_dir=tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_model_of_grey_images_is_one_line(self, tmp_path: Path) -> None:
        from backend.vision.ultralytics_import import import_ultralytics

        import_ultralytics()
        from ultralytics.nn.tasks import DetectionModel

        model = DetectionModel("yolo11n.yaml", ch=1, nc=2, verbose=False)
        model.task = "detect"
        path = networks.save(model, tmp_path / "grey.pt")
        with pytest.raises(WeightsError, match="takes images of 1 channel: MODEL must take colour"):
            load_detector(path, device="cpu", export_dir=tmp_path)

    @pytest.mark.parametrize("name", ["yolov5n.pt", "it's mine.pt"])
    def test_names_that_ultralytics_would_rewrite(
        self, name: str, checkpoint: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        path.write_bytes(checkpoint.read_bytes())
        assert read_checkpoint(path, dynamic=False).facts["input_size"] == networks.INPUT_SIZE

    @pytest.mark.parametrize(("trained", "used"), [(640, 640), ([480, 640], 640), (300, 320)])
    def test_the_input_size_is_that_of_training(self, trained: Any, used: int) -> None:
        model = networks.yolo("yolov8n")
        model.args = {"imgsz": trained}
        assert network_of(model, name="x", dynamic=False).facts["input_size"] == used
