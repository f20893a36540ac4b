"""Ultralytics checkpoints and exports behind the `Detector` contract."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.vision.conversion import Source, cached_export, drop_export
from backend.vision.decoder import DecoderOptions, decode
from backend.vision.detector import Found, Prepared
from backend.vision.engines import Engine, OpenVinoEngine, Outputs, TorchEngine
from backend.vision.foreign import read_foreign
from backend.vision.letterbox import draw, fit
from backend.vision.picture import Picture
from backend.vision.regions import image_vector, object_vector
from backend.vision.weights import content_hash, short_hash

if TYPE_CHECKING:
    import torch

# Raise it when the same weights would score the same image differently.
_DECODER_REVISION = 2

_EXPORT_KIND = "yolo"


@dataclass(frozen=True)
class InputSpec:
    """What the network accepts.

    Args:
        canvas: (width, height) in pixels that images are scaled into.
        stride: multiple to which padding may be cut, or None where only the canvas will do.
    """

    canvas: tuple[int, int]
    stride: int | None


class YoloDetector:
    """A YOLO network whose raw output is decoded with all class scores.

    Implements `Detector`. `prepare` may be called from many threads; calls of the others are
    taken one at a time.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        weights_hash: str,
        class_names: Sequence[str],
        spec: InputSpec,
        has_features: bool = True,
        options: DecoderOptions | None = None,
    ) -> None:
        """Join a loaded network with what is known of it. `load_detector` does both."""
        self._engine = engine
        self._spec = spec
        self._has_features = has_features
        self._options = options or DecoderOptions()
        self.class_names = tuple(class_names)
        self.version = short_hash(weights_hash, spec, self._options, _DECODER_REVISION)

    @property
    def input_size(self) -> int:
        """See `Detector`."""
        return max(self._spec.canvas)

    @property
    def floor(self) -> float:
        """See `Detector`."""
        return self._options.floor

    @property
    def has_features(self) -> bool:
        """See `Detector`."""
        return self._has_features

    def prepare(self, picture: Picture) -> Prepared:
        """See `Detector`."""
        letterbox = fit(picture.size, self._spec.canvas, self._spec.stride)
        return Prepared(draw(picture.pixels, letterbox), letterbox)

    def detect(self, batch: Sequence[Prepared]) -> list[Found]:
        """See `Detector`."""
        outputs = self._engine.run([prepared.pixels for prepared in batch])
        return [self._found(*pair) for pair in zip(batch, outputs, strict=True)]

    def features(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `Detector`."""
        if not self._has_features:
            raise WeightsError(
                "no features are found in this export: with ENCODER=detector set MODEL to the "
                ".pt it was made from, or use ENCODER=openclip"
            )
        rows = [image_vector(maps) for _, *maps in self._engine.run(batch)]
        return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)

    def _found(self, prepared: Prepared, outputs: Outputs) -> Found:
        raw, *maps = outputs
        detections = decode(raw, prepared.letterbox, self._options)
        if not self._has_features:
            return Found(detections)
        return Found(
            detections, image_vector(maps), object_vector(maps, detections, prepared.letterbox)
        )


def load_detector(
    path: Path, *, device: str, export_dir: Path | None, options: DecoderOptions | None = None
) -> YoloDetector:
    """Load a detector that lies where weights may be loaded from.

    Args:
        path: a .pt or .onnx file, or a folder with an OpenVINO model.
        device: "cpu" or "cuda:N". Exports run on the CPU in any case.
        export_dir: where a .pt converted for the CPU is kept; None: it is not converted but runs
            in torch, which begins at once and is slower in the long run.
        options: which boxes are kept; None: as for scoring.

    Raises:
        WeightsError: it cannot be loaded, or is not a detector this project can decode.
    """
    weights_hash = content_hash(path)
    if path.suffix != ".pt":
        foreign = read_foreign(path)
        return YoloDetector(
            OpenVinoEngine(foreign.model),
            weights_hash=weights_hash,
            class_names=foreign.class_names,
            spec=InputSpec(foreign.canvas, foreign.stride),
            has_features=foreign.has_features,
            options=options,
        )
    engine: Engine
    if device == "cpu" and export_dir is not None:
        export = cached_export(
            _EXPORT_KIND, (weights_hash,), export_dir, lambda: read_checkpoint(path, dynamic=True)
        )
        engine, facts = OpenVinoEngine(export.model), export.facts
    else:
        source = read_checkpoint(path, dynamic=False)
        engine, facts = TorchEngine(source.module, device), source.facts
    side = int(facts["input_size"])
    return YoloDetector(
        engine,
        weights_hash=weights_hash,
        class_names=facts["class_names"],
        spec=InputSpec((side, side), int(facts["stride"])),
        options=options,
    )


def forget_detector(weights_hash: str, export_dir: Path) -> None:
    """Remove what a checkpoint of this content hash was converted to."""
    drop_export(_EXPORT_KIND, (weights_hash,), export_dir)


def read_checkpoint(path: Path, *, dynamic: bool) -> Source:
    """A checkpoint as a torch network that gives (raw, *maps) for (N, 3, H, W) uint8.

    Args:
        path: the .pt file.
        dynamic: anchors are computed inside the graph, so that an export takes any shape.

    Raises:
        WeightsError: damaged, not a checkpoint, or not a detector.
    """
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint

    try:
        # Under a plain name: ultralytics takes yolov5n.pt for yolov5nu.pt and downloads that, and
        # drops quotes from paths.
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "weights.pt"
            plain.symlink_to(path.resolve())
            model, _ = load_checkpoint(plain)
    # A pickle may raise anything.
    except Exception as error:
        raise WeightsError(
            f"{path.name} cannot be loaded ({type(error).__name__}): it is damaged, or no "
            "Ultralytics checkpoint; download or train it again"
        ) from error
    return network_of(model, name=path.name, dynamic=dynamic)


def network_of(model: Any, *, name: str, dynamic: bool) -> Source:
    """An Ultralytics model, in memory, as a network that gives (raw, *maps).

    `raw` is the output of its head, `maps` are the feature maps that the head works on.

    Raises:
        WeightsError: it is not a detector whose class scores can be had.
    """
    task, head = getattr(model, "task", None), type(model.model[-1]).__name__
    # The text-prompted and transformer heads have another output behind the same task.
    if task != "detect" or head not in {"Detect", "v10Detect"}:
        raise WeightsError(
            f"{name} is a {task} model with a {head} head: MODEL must be a YOLO detection "
            "model (v5u, v8, v9, v10, 11, 12 or 26)"
        )
    channels = next(model.parameters()).shape[1]
    if channels != 3:
        raise WeightsError(
            f"{name} takes images of {channels} channel{'s' if channels > 1 else ''}: MODEL must "
            "take colour images (3 channels); train it with `channels: 3`"
        )
    stride = int(model.stride.max())
    facts = {
        "class_names": _class_names(model, name),
        "input_size": _input_size(model, stride),
        "stride": stride,
    }
    # Two strides wide and three high: a trace of a square could mix the two up.
    return Source(
        _raw_network(model, dynamic=dynamic), facts, (-1, 3, -1, -1), (2 * stride, 3 * stride)
    )


def _class_names(model: Any, name: str) -> list[str]:
    """The names of the classes in the order of their scores."""
    names = dict(enumerate(model.names)) if isinstance(model.names, list) else model.names
    scores = int(model.model[-1].nc)
    if set(names) != set(range(scores)):
        raise WeightsError(
            f"{name} gives scores for {scores} classes but names {len(names)}, not numbered from 0 "
            f"to {scores - 1}: train it again with a name for each class"
        )
    return [str(names[index]) for index in range(scores)]


def _input_size(model: Any, stride: int) -> int:
    """The size it was trained at, as a multiple of its stride."""
    args = getattr(model, "args", None) or {}
    size = (args if isinstance(args, dict) else vars(args)).get("imgsz") or 640
    longest = max(size) if isinstance(size, list | tuple) else size
    return math.ceil(int(longest) / stride) * stride


def _raw_network(model: Any, *, dynamic: bool) -> torch.nn.Module:
    """Wrap a model so that it takes uint8 and gives the output and the inputs of its head."""
    import torch

    head = model.model[-1]
    if head.cv2 is not None:
        # Of an NMS-free model the one-to-many branch, as Ultralytics' own predict takes by
        # default: it holds every anchor's scores, before duplicates are trained away.
        model.end2end = False
    else:
        # Fused for one-to-one: only that branch is left. Its top-k would drop class scores.
        head.postprocess = lambda rows: _corners_to_centres(rows.permute(0, 2, 1))
    model.fuse(verbose=False)
    head.export, head.dynamic, head.format = True, dynamic, "openvino"

    class RawNetwork(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.pyramid: list[torch.Tensor] = []
            head.register_forward_pre_hook(lambda _, inputs: self._remember(inputs[0]))

        def _remember(self, pyramid: list[torch.Tensor]) -> None:
            self.pyramid = pyramid

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Dtype of the weights: they are halved on a GPU.
            raw = self.model(pixels.to(next(self.model.parameters()).dtype) / 255)
            return raw, *self.pyramid

    return RawNetwork()


def _corners_to_centres(raw: torch.Tensor) -> torch.Tensor:
    """(N, 4 + C, A) with left, top, right, bottom -> the same with centre and size."""
    import torch

    low, high, scores = raw[:, :2], raw[:, 2:4], raw[:, 4:]
    return torch.cat([(low + high) / 2, high - low, scores], 1)
