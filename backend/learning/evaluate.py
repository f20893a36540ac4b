"""Evaluates a trained model against the serving one, on images that neither of them picked.

Both run on the hold-out; the new model is promoted if its mAP50 there is not below that of the
serving model. Every figure, the difference included, comes with a bootstrap interval, so that a
reader sees how much of it may be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.label_studio.label_map import LabelMap
from backend.learning.training_set import too_few_to_evaluate
from backend.settings import Settings
from backend.training.agreement import kappa
from backend.training.matching import (
    Boxes,
    ImageMatches,
    Predictions,
    match_image,
    relative_predictions,
)
from backend.training.quality import EVALUATION_FLOOR, Interval, Quality, compare, measure
from backend.vision.picture import Picture


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        promoted: whether the new model is to serve.
        reason: why, in one line.
        new: quality of the new model; None: it could not be evaluated.
        serving: quality of the model that served until now, on the same images.
        difference: mAP50 of the new one minus that of the serving one, paired by image.
        agreement: Cohen's kappa of both models' boxes, -1..1, 1 = the same.
    """

    promoted: bool
    reason: str
    new: Quality | None = None
    serving: Quality | None = None
    difference: Interval | None = None
    agreement: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The figures in plain types."""
        return {
            "new": self.new.as_json() if self.new else None,
            "serving": self.serving.as_json() if self.serving else None,
            "difference": asdict(self.difference) if self.difference else None,
            "agreement": self.agreement,
        }


def evaluate(
    truth: Sequence[Boxes],
    new: Sequence[Predictions],
    serving: Sequence[Predictions],
    class_names: Sequence[str],
    *,
    threshold: float,
) -> Evaluation:
    """Compare two models on the same images.

    Args:
        truth: the annotated boxes of each image, coordinates relative to the image.
        new: the new model's boxes of each image, from a low confidence on.
        serving: the serving model's boxes of each image.
        class_names: the label of each class id.
        threshold: confidence (0..1) from which annotators are shown boxes; agreement looks at
            those only.
    """
    too_few = too_few_to_evaluate(truth)
    if too_few:
        # Enough were labelled before the training; these are the images that could be read.
        return Evaluation(promoted=False, reason=f"not evaluated: {too_few}")
    new_matches = _matches(new, truth)
    serving_matches = _matches(serving, truth)
    difference = compare(new_matches, serving_matches, class_names)
    new_quality = measure(new_matches, class_names)
    serving_quality = measure(serving_matches, class_names)
    return Evaluation(
        promoted=difference.value >= 0,
        reason=_reason(new_quality, serving_quality, difference),
        new=new_quality,
        serving=serving_quality,
        difference=difference,
        agreement=kappa(
            (_above(one, threshold), _above(other, threshold))
            for one, other in zip(new, serving, strict=True)
        ),
    )


def _matches(predictions: Sequence[Predictions], truth: Sequence[Boxes]) -> list[ImageMatches]:
    return [match_image(p, t) for p, t in zip(predictions, truth, strict=True)]


def _reason(new: Quality, serving: Quality, difference: Interval) -> str:
    verdict = "not worse than" if difference.value >= 0 else "worse than"
    return (
        f"{verdict} the serving model: mAP50 {new.map50.value:.3f} against "
        f"{serving.map50.value:.3f} on {new.images} images of the hold-out "
        f"(difference {difference.value:+.3f}, 95% interval {difference.low:+.3f} to "
        f"{difference.high:+.3f})"
    )


def _above(predictions: Predictions, threshold: float) -> Boxes:
    keep = predictions.confidence >= threshold
    return Boxes(predictions.xyxy[keep], predictions.class_ids[keep])


class LabelMappedDetector:
    """A model whose class ids are mapped to the project's labels, from a low confidence on.

    Args:
        weights: the model; the caller has checked where it comes from.
        label_config: decides which label each of the model's classes is. Boxes of other classes
            are left out.
        class_names: the labels; their positions are the predicted class ids.
        settings: the device.

    Raises:
        WeightsError: the model cannot be loaded.
    """

    def __init__(
        self, weights: Path, label_config: str, class_names: Sequence[str], settings: Settings
    ) -> None:
        from backend.vision.decoder import DecoderOptions
        from backend.vision.engines import choose_device
        from backend.vision.yolo import load_detector

        self._detector = load_detector(
            weights,
            device=choose_device(settings.device),
            export_dir=settings.export_dir,
            options=DecoderOptions(floor=EVALUATION_FLOOR),
        )
        label_of = LabelMap.build(label_config, self._detector.class_names).labels
        id_of = {name: place for place, name in enumerate(class_names)}
        self._class_ids = {
            place: id_of[label_of[name]]
            for place, name in enumerate(self._detector.class_names)
            if name in label_of
        }

    @property
    def input_size(self) -> int:
        """The longer side of its input, in pixels."""
        return self._detector.input_size

    def predict(self, pictures: Sequence[Picture]) -> list[Predictions]:
        """The boxes of each picture, coordinates relative to the image."""
        found = self._detector.detect([self._detector.prepare(picture) for picture in pictures])
        return [relative_predictions(one.detections, self._class_ids) for one in found]
