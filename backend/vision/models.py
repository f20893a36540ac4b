"""The settings -> a detector and an encoder, loaded; and what the two make of images.

picture = decode(data, long_side=models.long_side)   # any thread
inputs = models.prepare(picture)                     # any thread
observations = models.observe([inputs, ...])         # one thread
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.detections import Detections
from backend.metrics import timed
from backend.settings import Settings
from backend.vision.crops import object_crops
from backend.vision.detector import Detector, Prepared
from backend.vision.encoder import DetectorEncoder, Encoder
from backend.vision.picture import Picture


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """One image, ready for both models.

    Args:
        picture: its pixels, from which objects are cut.
        detector_input: what the detector takes; None where its objects are known.
        encoder_input: what the encoder takes; None where the detector's pass embeds it as well,
            or where its embedding is known.
        detections: its objects, where they are known.
    """

    picture: Picture
    detector_input: Prepared | None
    encoder_input: NDArray[np.uint8] | None
    detections: Detections | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """What the models make of one image.

    Args:
        detections: its objects.
        embedding: (D,) float32 of length 1: the whole image; None where it was known.
        object_embeddings: (K, D) float32 rows of length 1: its most uncertain objects.
    """

    detections: Detections
    embedding: NDArray[np.float32] | None
    object_embeddings: NDArray[np.float32]


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
            picture,
            self.detector.prepare(picture) if detections is None else None,
            None if spared else self.encoder.prepare(picture.pixels),
            detections,
        )

    def observe(self, batch: Sequence[ImageInputs], *, crops: int = 0) -> list[Observation]:
        """Detect and embed.

        Args:
            batch: images in any shapes.
            crops: how many objects of each image are embedded too, the most uncertain ones.

        Returns:
            One observation per image, in order.
        """
        if not batch:
            return []
        with timed("detect"):
            detections, wholes = self._detect(batch)
        objects = [
            object_crops(inputs.picture, seen, limit=crops) if crops else []
            for inputs, seen in zip(batch, detections, strict=True)
        ]
        # Whole images and objects go to the encoder together: it is faster in large batches.
        pending = [x.encoder_input for x in batch if x.encoder_input is not None]
        cut = [self.encoder.prepare(pixels) for image in objects for pixels in image]
        with timed("embed"):
            rows = iter(self._encode([*pending, *cut]))
        embeddings = [
            whole if inputs.encoder_input is None else next(rows)
            for inputs, whole in zip(batch, wholes, strict=True)
        ]
        return [
            Observation(seen, embedding, self._stack([next(rows) for _ in image]))
            for seen, embedding, image in zip(detections, embeddings, objects, strict=True)
        ]

    def _detect(
        self, batch: Sequence[ImageInputs]
    ) -> tuple[list[Detections], Sequence[NDArray[np.float32] | None]]:
        """Detections, and the embeddings of whole images that come with them, else None."""
        pending = [x.detector_input for x in batch if x.detector_input is not None]
        found: Iterator[Detections] = iter(())
        features: Iterator[NDArray[np.float32] | None] = itertools.repeat(None)
        if pending and self._shares_one_pass:
            detections, rows = self.detector.detect_with_features(pending)
            found, features = iter(detections), iter(rows)
        elif pending:
            found = iter(self.detector.detect(pending))
        seen = [
            (next(found), next(features)) if x.detections is None else (x.detections, None)
            for x in batch
        ]
        return [detections for detections, _ in seen], [row for _, row in seen]

    def _encode(self, inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self.encoder.encode(inputs) if inputs else self._stack([])

    def _stack(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(N, D) of N rows, also for none."""
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.encoder.dim)

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
