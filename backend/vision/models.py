"""The settings -> a detector and an encoder, loaded; and what the two make of images.

picture = decode(data, long_side=models.long_side)   # any thread
inputs = models.prepare(picture)                     # any thread
observations = models.observe([inputs, ...])         # one thread
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.metrics import timed
from backend.settings import Settings
from backend.vision.detector import Detector, Found, Prepared
from backend.vision.encoder import DetectorEncoder, Encoder
from backend.vision.picture import Picture


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """One image, ready for both models.

    Args:
        detector_input: what the detector takes; None where its objects are known.
        encoder_input: what the encoder takes; None where the detector's pass embeds it as well,
            or where its embedding is known.
        detections: its objects, where they are known.
    """

    detector_input: Prepared | None
    encoder_input: NDArray[np.uint8] | None
    detections: Detections | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """What the models make of one image.

    Args:
        detections: its objects.
        embedding: (D,) float32 of length 1: the whole image; None where it was known.
        object_vector: see `Found`.
    """

    detections: Detections
    embedding: NDArray[np.float32] | None
    object_vector: NDArray[np.float32] | None


@dataclass(frozen=True)
class Models:
    """A detector and an encoder. One thread at a time may `observe`."""

    detector: Detector
    encoder: Encoder

    @property
    def long_side(self) -> int:
        """The longer side, in pixels, that pictures are best decoded at."""
        return self.detector.input_size

    def with_detector(self, path: Path, settings: Settings) -> Models:
        """The same encoder beside another detector.

        Args:
            path: its weights; the caller has made sure where they come from.
            settings: on which device it runs, and where what it is converted to is kept.

        Raises:
            WeightsError: the weights cannot be loaded.
        """
        from backend.vision.engines import choose_device
        from backend.vision.yolo import load_detector

        device = choose_device(settings.device)
        detector = load_detector(path, device=device, export_dir=settings.export_dir)
        return Models(detector, self.encoder)

    def prepare(
        self,
        picture: Picture,
        *,
        embedded: bool = False,
        detections: Detections | None = None,
    ) -> ImageInputs:
        """Scale one picture for both models. Cheap, and safe to call from many threads.

        Args:
            picture: the decoded image.
            embedded: the embedding of the whole image is known and need not be computed.
            detections: its objects, where they are known and need not be found.
        """
        spared = embedded or (self._shares_one_pass and detections is None)
        return ImageInputs(
            self.detector.prepare(picture) if detections is None else None,
            None if spared else self.encoder.prepare(picture.pixels),
            detections,
        )

    def observe(self, batch: Sequence[ImageInputs]) -> list[Observation]:
        """Detect and embed images of any shapes: one observation each, in order."""
        with timed("detect"):
            found = self._detect(batch)
        pending = [x.encoder_input for x in batch if x.encoder_input is not None]
        with timed("embed"):
            rows = iter(self.encoder.encode(pending) if pending else ())
        return [
            Observation(
                one.detections,
                self._embedding(one) if inputs.encoder_input is None else next(rows),
                one.object_vector,
            )
            for inputs, one in zip(batch, found, strict=True)
        ]

    def _detect(self, batch: Sequence[ImageInputs]) -> list[Found]:
        pending = [x.detector_input for x in batch if x.detector_input is not None]
        found = iter(self.detector.detect(pending) if pending else ())
        return [next(found) if x.detections is None else Found(x.detections) for x in batch]

    def _embedding(self, found: Found) -> NDArray[np.float32] | None:
        """What the detector's own pass says of the whole image, where it is the encoder."""
        return found.image_vector if self._shares_one_pass else None

    @property
    def _shares_one_pass(self) -> bool:
        return isinstance(self.encoder, DetectorEncoder) and self.encoder.detector is self.detector


def load_models(settings: Settings) -> Models:
    """Load everything now: what cannot work fails here, with its remedy, and not at work.

    Raises:
        WeightsError: weights that are not allowed, not there, or cannot be loaded.
        SettingsError: DEVICE names a GPU that is not there.
    """
    from backend.vision.clip import load_clip
    from backend.vision.engines import choose_device
    from backend.vision.weights import find_detector
    from backend.vision.yolo import load_detector

    device = choose_device(settings.device)
    path = find_detector(settings.model, settings.model_dir)
    detector = load_detector(path, device=device, export_dir=settings.export_dir)
    if settings.encoder == "detector":
        return Models(detector, DetectorEncoder(detector))
    encoder = load_clip(
        settings.clip_model,
        settings.clip_pretrained,
        model_dir=settings.model_dir,
        device=device,
        export_dir=settings.export_dir,
    )
    return Models(detector, encoder)
