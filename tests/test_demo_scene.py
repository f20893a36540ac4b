"""The demo's generated inspection line, and the small models trained on it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.scene import (
    BALANCED,
    CLASSES,
    HEIGHT,
    WIDTH,
    Frame,
    generate,
    read_yolo_label,
    write_pool,
    yolo_label,
)

WEIGHTS = Path(__file__).parent.parent / "demo" / "weights"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(generate(16, seed=9001, mix=BALANCED, lengths=(4, 4), singles=0.0))


def test_no_frames_when_none_are_asked_for():
    assert list(generate(0, seed=1)) == []


def test_same_seed_same_frames_and_fewer_are_a_prefix():
    longer = list(generate(3, seed=5))
    for ours, theirs in zip(generate(2, seed=5), longer, strict=False):
        assert ours.jpeg == theirs.jpeg
        np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
        np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    assert next(generate(1, seed=6)).jpeg != longer[0].jpeg


def test_boxes_are_inside_the_picture_and_not_empty(frames):
    for frame in frames:
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.xyxy.shape == (len(frame.class_ids), 4)
        assert (frame.xyxy >= 0).all()
        assert (frame.xyxy <= (WIDTH, HEIGHT, WIDTH, HEIGHT)).all()
        assert (frame.xyxy[:, 2:] - frame.xyxy[:, :2] >= 8).all()
        assert set(frame.class_ids.tolist()) <= set(range(len(CLASSES)))
    assert sum(len(frame.xyxy) for frame in frames) > len(frames)


def test_frames_of_a_sequence_are_near_duplicates(frames):
    small = [cv2.resize(f.pixels, (32, 24), interpolation=cv2.INTER_AREA) for f in frames]
    within, across = [], []
    for i, a in enumerate(frames):
        for j, b in enumerate(frames[:i]):
            far = float(np.abs(small[i].astype(int) - small[j].astype(int)).mean())
            (within if a.sequence == b.sequence else across).append(far)
    assert max(within) < min(across)


def test_the_belt_moves_on(frames):
    first, second = frames[:2]
    assert first.sequence == second.sequence
    assert (first.number, second.number) == (0, 1)
    assert first.jpeg != second.jpeg


@pytest.mark.parametrize("text", ["", "0 0.5 0.5 0.25 0.5\n7 0.1 0.2 0.1 0.1\n"])
def test_labels_are_read_back(text):
    xyxy, class_ids = read_yolo_label(text)
    frame = Frame(b"", np.zeros((0, 0, 3), np.uint8), xyxy, class_ids, "line1_seq000", 0, ())
    again, ids = read_yolo_label(yolo_label(frame))
    np.testing.assert_allclose(again, xyxy, atol=1e-3)
    assert ids.tolist() == class_ids.tolist()


def test_pool_is_a_yolo_data_set(tmp_path):
    write_pool(tmp_path, count=4, seed=3)
    pictures = sorted((tmp_path / "images").glob("*.jpg"))
    assert len(pictures) == 4
    assert "names:" in (tmp_path / "data.yaml").read_text()
    for path, frame in zip(pictures, generate(4, seed=3), strict=True):
        assert re.fullmatch(r"line\d_seq\d{3}_f\d{2}", path.stem)
        assert path.read_bytes() == frame.jpeg
        xyxy, class_ids = read_yolo_label((tmp_path / "labels" / f"{path.stem}.txt").read_text())
        np.testing.assert_allclose(xyxy, frame.xyxy, atol=0.01)
        assert class_ids.tolist() == frame.class_ids.tolist()


def test_weights_are_small_and_name_no_machine():
    files = [WEIGHTS / name for name in ("detector.pt", "encoder.pt", "encoder.json")]
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in files:
        content = path.read_bytes()
        assert not re.search(rb"/(work|root|home|tmp|Users)/", content), path.name


def test_detector_finds_common_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a dependency says at import is not ours
        from ultralytics import YOLO
    model = YOLO(str(WEIGHTS / "detector.pt"))
    assert tuple(model.names.values()) == CLASSES
    assert model.overrides["imgsz"] == 256
    hits = total = 0
    for frame in generate(5, seed=9002, lengths=(1, 1)):
        found = model.predict(frame.pixels[..., ::-1], conf=0.25, device="cpu", verbose=False)[0]
        for box, class_id in zip(frame.xyxy, frame.class_ids, strict=True):
            if CLASSES[class_id] in ("bolt", "nut", "washer"):
                total += 1
                same = found.boxes.xyxy.numpy()[found.boxes.cls.numpy() == class_id]
                hits += bool(len(same)) and bool(_iou(box, same).max() > 0.5)
    assert hits > 0.6 * total


def test_encoder_tells_sequences_apart(frames):
    pytest.importorskip("open_clip")
    from demo.encoder import embed

    features = embed(WEIGHTS, [frame.pixels for frame in frames])
    cosines = features @ features.T
    keys = np.asarray([frame.sequence for frame in frames])
    same = keys[:, None] == keys[None, :]
    assert np.median(cosines[same]) > 0.95
    assert np.median(cosines[~same]) < 0.8
    hidden = np.where(np.eye(len(frames), dtype=bool), -1, cosines)
    assert (keys[hidden.argmax(axis=1)] == keys).mean() > 0.9


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)
