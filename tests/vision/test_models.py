from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import ImageError, SettingsError, UnreachableError, WeightsError
from backend.settings import Settings
from backend.vision.encoder import DetectorEncoder
from backend.vision.models import Models, Observation, load_models
from backend.vision.picture import Picture, decode
from backend.vision.pipeline import observe_all
from backend.vision.yolo import YoloDetector
from tests.vision import networks


class Colour:
    """An encoder by hand: the mean colour."""

    name = "colour"
    dim = 3

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def encode(self, batch: list[np.ndarray]) -> np.ndarray:
        rows = np.array([pixels.mean(axis=(0, 1)) for pixels in batch], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def picture(seed: int) -> Picture:
    return Picture(networks.scene(160, 120, seed), (160, 120))


@pytest.fixture(scope="module")
def with_colour(detector: YoloDetector) -> Models:
    return Models(detector, Colour())


@pytest.fixture(scope="module")
def with_features(detector: YoloDetector) -> Models:
    return Models(detector, DetectorEncoder(detector))


@pytest.mark.parametrize("kind", ["with_colour", "with_features"])
def test_observe_gives_detections_and_embeddings_in_order(
    kind: str, request: pytest.FixtureRequest
) -> None:
    models: Models = request.getfixturevalue(kind)
    pictures = [picture(seed) for seed in range(3)]
    seen = models.observe([models.prepare(one) for one in pictures])
    for one, observation in zip(pictures, seen, strict=True):
        [expected] = networks.boxes_of(models.detector, [models.detector.prepare(one)])
        assert np.allclose(observation.detections.class_scores, expected.class_scores, atol=1e-5)
        [row] = models.encoder.encode([models.encoder.prepare(one.pixels)])
        assert np.allclose(observation.embedding, row, atol=1e-5)
        [found] = models.detector.detect([models.detector.prepare(one)])
        assert np.allclose(observation.object_vector, found.object_vector, atol=1e-5)


@pytest.mark.parametrize("kind", ["with_colour", "with_features"])
def test_observe_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(kind).observe([]) == []


class TestLoadModels:
    def settings(self, checkpoint: Path, tmp_path: Path, **changes: object) -> Settings:
        values = {
            "model": checkpoint.name,
            "model_dir": checkpoint.parent,
            "data_dir": tmp_path,
            "encoder": "detector",
            "device": "cpu",
            **changes,
        }
        return Settings.model_validate(values)

    def test_with_the_detector_as_encoder(self, checkpoint: Path, tmp_path: Path) -> None:
        models = load_models(self.settings(checkpoint, tmp_path))
        assert models.long_side == networks.INPUT_SIZE
        [seen] = models.observe([models.prepare(picture(0))])
        assert seen.embedding.shape == (models.encoder.dim,)

    def test_clip_weights_that_are_missing_name_both_remedies(
        self, checkpoint: Path, tmp_path: Path
    ) -> None:
        settings = self.settings(checkpoint, tmp_path, encoder="openclip", clip_pretrained="no.pt")
        with pytest.raises(WeightsError, match=r"CLIP_PRETRAINED.*ENCODER=detector"):
            load_models(settings)

    def test_weights_outside_the_folder(self, checkpoint: Path, tmp_path: Path) -> None:
        settings = self.settings(checkpoint, tmp_path, model_dir=tmp_path, model=str(checkpoint))
        with pytest.raises(WeightsError, match="inside MODEL_DIR"):
            load_models(settings)

    @pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x"])
    def test_a_device_that_is_not_there(
        self, device: str, checkpoint: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(SettingsError, match=f"DEVICE={device}"):
            load_models(self.settings(checkpoint, tmp_path, device=device))


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(networks.scene(160, 120, seed)).save(buffer, "JPEG")
    return buffer.getvalue()


class TestObserveAll:
    def test_every_item_in_order_with_its_observation_or_error(self, with_colour: Models) -> None:
        def load(item: int) -> bytes:
            if item == 3:
                raise UnreachableError("down")
            return b"" if item == 5 else jpeg(item)

        outcomes = list(observe_all(with_colour, range(11), load, batch_size=4, threads=3))
        assert [item for item, _ in outcomes] == list(range(11))
        kinds = {item: type(outcome) for item, outcome in outcomes}
        assert kinds.pop(3) is UnreachableError
        assert kinds.pop(5) is ImageError
        assert set(kinds.values()) == {Observation}
        seen = outcomes[7][1]
        assert isinstance(seen, Observation)
        inputs = with_colour.prepare(decode(jpeg(7), long_side=with_colour.long_side))
        assert np.allclose(with_colour.observe([inputs])[0].embedding, seen.embedding)

    def test_nothing(self, with_colour: Models) -> None:
        assert list(observe_all(with_colour, [], jpeg)) == []

    def test_a_known_embedding_is_not_computed_again(self, with_colour: Models) -> None:
        def known(item: int) -> bool:
            return item == 1

        asked = list(observe_all(with_colour, range(3), jpeg, embedded=known))
        plain = list(observe_all(with_colour, range(3), jpeg))
        for (item, seen), (_, expected) in zip(asked, plain, strict=True):
            assert isinstance(seen, Observation)
            assert isinstance(expected, Observation)
            assert (seen.embedding is None) == (item == 1)
            # The other images and all objects keep their own vectors.
            if item != 1:
                assert np.allclose(seen.embedding, expected.embedding)
            assert np.allclose(seen.object_vector, expected.object_vector)

    @pytest.mark.parametrize("kind", ["with_colour", "with_features"])
    def test_known_objects_are_not_found_again(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        models: Models = request.getfixturevalue(kind)
        plain = [seen for _, seen in observe_all(models, range(3), jpeg)]
        known = plain[1]
        assert isinstance(known, Observation)
        nothing = replace(
            known.detections,
            xyxy=known.detections.xyxy[:0],
            class_scores=known.detections.class_scores[:0],
        )
        asked = list(
            observe_all(models, range(3), jpeg, detections=lambda item: {1: nothing}.get(item))
        )
        for (item, seen), expected in zip(asked, plain, strict=True):
            assert isinstance(seen, Observation)
            assert isinstance(expected, Observation)
            assert (seen.detections is nothing) == (item == 1)
            assert np.allclose(seen.embedding, expected.embedding, atol=1e-5)
            assert (seen.object_vector is None) == (item == 1)

    def test_it_looks_two_batches_ahead_and_no_further(self, with_colour: Models) -> None:
        taken: list[int] = []

        def items() -> object:
            for item in range(100):
                taken.append(item)
                yield item

        outcomes = observe_all(with_colour, items(), jpeg, batch_size=4, threads=2)
        next(outcomes)
        assert len(taken) == 12
        outcomes.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("decode")]

    def test_other_errors_are_raised(self, with_colour: Models) -> None:
        def load(item: int) -> bytes:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(observe_all(with_colour, range(3), load))


def test_importing_does_nothing() -> None:
    import subprocess
    import sys

    code = (
        "import pkgutil, sys, backend.vision as v\n"
        "for m in pkgutil.iter_modules(v.__path__): __import__(f'backend.vision.{m.name}')\n"
        "heavy = {'torch', 'ultralytics', 'open_clip', 'openvino', 'torchvision', 'cv2'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_ultralytics_leaves_no_trace(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "from PIL import Image; before = Image.open\n"
        "from backend.vision.ultralytics_import import import_ultralytics as door; door()\n"
        "import json, os, torch\n"
        "from ultralytics.utils import AUTOINSTALL, ONLINE\n"
        "from ultralytics.utils.events import events\n"
        "print(json.dumps([Image.open is before, AUTOINSTALL, ONLINE, events.enabled,\n"
        "    os.environ.get('OMP_NUM_THREADS')]))"
    )
    env = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert json.loads(done.stdout) == [True, False, False, False, None]
    assert not (tmp_path / ".config").exists()
