from __future__ import annotations

from pathlib import Path

import pytest

from backend.vision.yolo import YoloDetector, load_detector
from tests.vision import networks


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small YOLO11 checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    return networks.save(networks.yolo("yolo11n"), folder / "tiny.pt")


@pytest.fixture(scope="session")
def export_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def detector(checkpoint: Path, export_dir: Path) -> YoloDetector:
    return load_detector(checkpoint, device="cpu", export_dir=export_dir)
