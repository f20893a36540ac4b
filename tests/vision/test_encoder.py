"""A small OpenCLIP tower with random weights, from a checkpoint on disk to embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import WeightsError
from backend.vision.clip import ClipEncoder, find_clip, load_clip
from backend.vision.encoder import DetectorEncoder, Encoder
from backend.vision.picture import Picture
from backend.vision.yolo import YoloDetector
from tests.vision import networks

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODEL_DIR with an architecture and a checkpoint of it."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip", load_weights=False)
    torch.save(model.state_dict(), folder / "tiny.pt")
    return folder


@pytest.fixture(scope="module")
def encoder(model_dir: Path, export_dir: Path) -> ClipEncoder:
    return load(model_dir, export_dir)


def load(model_dir: Path, export_dir: Path, **changes: Any) -> ClipEncoder:
    settings = {"architecture": "tiny-clip.json", "pretrained": "tiny.pt", **changes}
    return load_clip(**settings, model_dir=model_dir, device="cpu", export_dir=export_dir)


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (100, 300), (1000, 64), (20, 30)])
def test_embeddings_are_those_of_open_clip(
    size: tuple[int, int], encoder: ClipEncoder, model_dir: Path
) -> None:
    import open_clip
    import torch
    from PIL import Image

    pixels = networks.scene(*size)
    [row] = encoder.encode([encoder.prepare(pixels)])
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-clip", pretrained=str(model_dir / "tiny.pt")
    )
    with torch.inference_mode():
        image = preprocess(Image.fromarray(pixels))[None]
        expected = model.eval().encode_image(image, normalize=True)[0].numpy()
    assert row @ expected > 0.9999


def test_it_keeps_the_contract(encoder: ClipEncoder) -> None:
    contract: Encoder = encoder
    batch = [contract.prepare(networks.scene(80, 60, seed)) for seed in (1, 2, 3, 1)]
    rows = contract.encode(batch)
    assert rows.shape == (4, contract.dim) == (4, 32)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows[0], rows[3], atol=1e-6)
    assert rows[0] @ rows[1] < 0.9999
    assert np.allclose(contract.encode(batch[1:2]), rows[1:2], atol=1e-6)
    assert contract.encode([]).shape == (0, 32)


def test_the_name_follows_the_weights(
    encoder: ClipEncoder, model_dir: Path, export_dir: Path
) -> None:
    import torch

    assert encoder.name.startswith("openclip-tiny-clip-")
    assert load(model_dir, export_dir).name == encoder.name
    state = torch.load(model_dir / "tiny.pt", weights_only=True)
    state["visual.proj"] += 1
    torch.save(state, model_dir / "other.pt")
    assert load(model_dir, export_dir, pretrained="other.pt").name != encoder.name


class TestRefused:
    def test_an_unknown_architecture(self, model_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="no architecture that open_clip knows"):
            load(model_dir, tmp_path, architecture="ViT-Z-1")

    @pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp"])
    def test_addresses(self, name: str, model_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="no architecture"):
            load(model_dir, tmp_path, architecture=name)

    @pytest.mark.parametrize("name", ["missing.pt", "no_such_tag"])
    def test_weights_that_are_not_there(self, name: str, model_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="set CLIP_PRETRAINED to its name, or set ENCODER"):
            load(model_dir, tmp_path, pretrained=name)

    def test_weights_outside_the_folder(self, model_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "evil.pt").write_bytes(b"code")
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            load(model_dir, tmp_path, pretrained=str(tmp_path / "evil.pt"))

    def test_an_architecture_file_outside_the_folder(self, model_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text(json.dumps(CONFIG))
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            load(model_dir, tmp_path, architecture=str(tmp_path / "x.json"))

    @pytest.mark.parametrize("text", ["{", "[]", '{"embed_dim": 3}'])
    def test_an_architecture_file_that_is_none(
        self, text: str, model_dir: Path, tmp_path: Path
    ) -> None:
        (model_dir / "bad.json").write_text(text)
        with pytest.raises(WeightsError, match=r"CLIP_MODEL=bad\.json"):
            load(model_dir, tmp_path, architecture="bad.json")

    def test_a_damaged_checkpoint(self, model_dir: Path, tmp_path: Path) -> None:
        (model_dir / "bad.pt").write_bytes(b"nothing of the kind")
        with pytest.raises(WeightsError, match="damaged or belongs to another CLIP_MODEL"):
            load(model_dir, tmp_path, pretrained="bad.pt")

    def test_a_checkpoint_of_another_architecture(self, model_dir: Path, tmp_path: Path) -> None:
        config = {**CONFIG, "embed_dim": 48}
        (model_dir / "other-clip.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="ENCODER=detector"):
            load(model_dir, tmp_path, architecture="other-clip.json")

    def test_a_checkpoint_that_holds_code(self, model_dir: Path, tmp_path: Path) -> None:
        import torch

        torch.save({"state_dict": Path("an object that is no tensor")}, model_dir / "code.pt")
        with pytest.raises(WeightsError, match="cannot be loaded"):
            load(model_dir, tmp_path, pretrained="code.pt")

    def test_a_tag_that_cannot_be_fetched(
        self, model_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import open_clip
        from huggingface_hub import constants

        asked: list[object] = []
        monkeypatch.setattr(open_clip, "download_pretrained", lambda *a, **o: asked.append(a))
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(WeightsError, match=r"could not be downloaded.*ENCODER=detector"):
            find_clip("ViT-B-32", "laion2b_s34b_b79k", model_dir)
        # Its client would try again for a minute, with a line for each time.
        assert asked == []


def test_a_tag_that_was_fetched_before_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    def fail(*args: object, **options: object) -> str:
        raise AssertionError("it is there")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    repository = tmp_path / "open_clip" / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    (snapshot / "open_clip_model.safetensors").write_bytes(b"weights")
    weights = find_clip("ViT-B-32", "laion2b_s34b_b79k", tmp_path)
    assert weights.file == snapshot / "open_clip_model.safetensors"
    assert weights.tag["interpolation"] == "bicubic"


class TestDetectorEncoder:
    def test_it_keeps_the_contract(self, detector: YoloDetector) -> None:
        encoder: Encoder = DetectorEncoder(detector)
        pixels = networks.scene(160, 120)
        rows = encoder.encode([encoder.prepare(pixels), encoder.prepare(pixels[20:60, 30:90])])
        assert rows.shape == (2, encoder.dim)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert detector.version in encoder.name
        prepared = detector.prepare(Picture(pixels, (160, 120)))
        assert np.allclose(detector.detect([prepared])[0].image_vector, rows[0], atol=1e-6)
