"""OpenCLIP's image tower behind the `Encoder` contract."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.vision.conversion import Source, cached_export
from backend.vision.engines import Engine, OpenVinoEngine, TorchEngine
from backend.vision.weights import content_hash, inside, short_hash

if TYPE_CHECKING:
    import torch

_HUB_SECONDS = 10.0
_REMEDIES = (
    "put a checkpoint into MODEL_DIR and set CLIP_PRETRAINED to its name, "
    "or set ENCODER=detector, which needs no CLIP weights"
)
# Images of one request: a ViT-B-32 took 53 ms each alone, 40 in eights and 36 in sixteens.
_BATCH = 16

_HUB_FILE_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ClipWeights:
    """A checkpoint that is on this disk.

    Args:
        architecture: name that open_clip knows it by.
        file: the checkpoint.
        tag: what open_clip knows of a published checkpoint (its preprocessing); else empty.
        version: hash of the checkpoint and of the architecture.
    """

    architecture: str
    file: Path
    tag: dict[str, Any]
    version: str


class ClipEncoder:
    """An OpenCLIP image tower with its own preprocessing.

    Implements `Encoder`. Resizing and cropping are done in `prepare`, by the very transforms that
    open_clip would apply; the normalisation of colours is part of the network.
    """

    def __init__(self, engine: Engine, *, name: str, dim: int, preprocess: dict[str, Any]) -> None:
        """Join a loaded tower with its preprocessing (`open_clip.transform.PreprocessCfg`)."""
        self._engine = engine
        self._resize = _resizing_steps(preprocess)
        self.name = name
        self.dim = dim

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB -> (3, H, W) uint8, resized and cropped as in training."""
        from PIL import Image

        image = Image.fromarray(pixels)
        for step in self._resize:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """See `Encoder`."""
        if not batch:
            return np.empty((0, self.dim), dtype=np.float32)
        rows = np.stack([outputs[0] for outputs in self._engine.run(batch)])
        if not np.isfinite(rows).all():
            raise WeightsError(f"the encoder {self.name} gives NaN: its weights are damaged")
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit


def load_clip(
    architecture: str, pretrained: str, *, model_dir: Path, device: str, export_dir: Path
) -> ClipEncoder:
    """Load an OpenCLIP encoder.

    Args:
        architecture: setting CLIP_MODEL: a name that open_clip knows, or the .json file of one in
            `model_dir`.
        pretrained: setting CLIP_PRETRAINED: a tag, or a checkpoint in `model_dir`.
        model_dir: the only folder that files are loaded from, and tags are downloaded to.
        device: "cpu" or "cuda:N".
        export_dir: where the tower converted for the CPU is kept.

    Raises:
        WeightsError: it cannot be found, fetched or loaded; the message says what to do instead.
    """
    weights = find_clip(architecture, pretrained, model_dir)
    engine: Engine
    if device == "cpu":
        export = cached_export(
            f"clip-{weights.architecture.replace('/', '-')}",
            (weights.version,),
            export_dir,
            lambda: read_tower(weights),
        )
        engine, facts = OpenVinoEngine(export.model, max_batch=_BATCH), export.facts
    else:
        source = read_tower(weights)
        engine, facts = TorchEngine(source.module, device), source.facts
    return ClipEncoder(
        engine,
        name=f"openclip-{weights.architecture}-{weights.version}",
        dim=int(facts["dim"]),
        preprocess=facts["preprocess"],
    )


def find_clip(architecture: str, pretrained: str, model_dir: Path) -> ClipWeights:
    """Resolve both settings to a checkpoint on this disk, downloading a tag if need be.

    Raises:
        WeightsError: see `load_clip`.
    """
    import open_clip

    config = ""
    tag: dict[str, Any] = {}
    if architecture.endswith(".json"):
        path = inside(architecture, model_dir, setting="CLIP_MODEL")
        architecture, config = _register(path), content_hash(path) if path.is_file() else ""
    elif architecture not in open_clip.list_models():
        raise WeightsError(
            f"CLIP_MODEL={architecture} is no architecture that open_clip knows (such as "
            "ViT-B-32), nor the .json file of one in MODEL_DIR"
        )
    if open_clip.pretrained.is_pretrained_cfg(architecture, pretrained):
        tag = open_clip.get_pretrained_cfg(architecture, pretrained)
        file = _fetch(tag, f"{architecture} / {pretrained}", model_dir / "open_clip")
    else:
        file = inside(pretrained, model_dir, setting="CLIP_PRETRAINED")
        if not file.is_file():
            raise WeightsError(
                f"CLIP_PRETRAINED={pretrained} is neither a tag of {architecture} nor a file in "
                f"MODEL_DIR: {_REMEDIES}"
            )
    version = short_hash(content_hash(file), architecture, config, sorted(tag.items()))
    return ClipWeights(architecture, file, tag, version)


def read_tower(weights: ClipWeights) -> Source:
    """The image tower in torch, taking (N, 3, H, W) uint8; the text tower is let go.

    Raises:
        WeightsError: the checkpoint is damaged or does not fit the architecture.
    """
    import open_clip

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(
                weights.architecture,
                pretrained=str(weights.file),
                require_pretrained=True,
                weights_only=True,
                # What open_clip would do for the tag itself; it only warns of the second.
                force_preprocess_cfg=weights.tag,
                force_quick_gelu=bool(weights.tag.get("quick_gelu")),
            )
    # State dicts, pickles and towers of other libraries each fail in their own way.
    except Exception as error:
        raise WeightsError(
            f"{weights.file.name} cannot be loaded as {weights.architecture} "
            f"({type(error).__name__}): it is damaged or belongs to another CLIP_MODEL; {_REMEDIES}"
        ) from error
    return tower_of(model)


def tower_of(model: Any) -> Source:
    """The image tower of an open_clip model in memory, its normalisation built in."""
    import open_clip
    import torch

    preprocess = dict(open_clip.get_model_preprocess_cfg(model))
    height, width = _pair(preprocess["size"])

    class ImageTower(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual
            self.register_buffer("mean", 255 * torch.tensor(preprocess["mean"]).view(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(preprocess["std"]).view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
            colours = (pixels.to(self.mean.dtype) - self.mean) / self.std
            pooled = self.visual(colours)
            # CoCa's tower also gives its tokens.
            return (pooled[0] if isinstance(pooled, tuple) else pooled,)

    tower = ImageTower().eval()
    with torch.inference_mode():
        dim = tower(torch.zeros((1, 3, height, width), dtype=torch.uint8))[0].shape[1]
    return Source(
        tower, {"dim": dim, "preprocess": preprocess}, (-1, 3, height, width), (height, width)
    )


def _resizing_steps(preprocess: dict[str, Any]) -> list[Any]:
    """open_clip's own transforms up to where pixels become tensors."""
    from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2

    size = tuple(_pair(preprocess["size"]))
    transform = image_transform_v2(PreprocessCfg(**{**preprocess, "size": size}), is_train=False)
    steps: list[Any] = []
    for step in transform.transforms:
        if isinstance(step, MaybeToTensor):
            break
        steps.append(step)
    return steps


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _register(path: Path) -> str:
    """Make an architecture file known to open_clip; its name is that of the file."""
    import open_clip

    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        complete = {"embed_dim", "vision_cfg", "text_cfg"} <= set(config)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"CLIP_MODEL={path.name} cannot be read from MODEL_DIR ({type(error).__name__})"
        ) from None
    if not complete:
        raise WeightsError(
            f"CLIP_MODEL={path.name} is no open_clip architecture: it must have embed_dim, "
            "vision_cfg and text_cfg"
        )
    open_clip.add_model_config(path)
    return path.stem


def _fetch(tag: dict[str, Any], name: str, cache_dir: Path) -> Path:
    """The checkpoint of a tag, downloaded into `cache_dir` unless it is there."""
    import open_clip

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Asked first: offline, the hub's client retries for a minute before it looks there.
        file = _kept(tag, cache_dir)
        if file is None:
            _reach_hub(tag)
            file = Path(open_clip.download_pretrained(tag, cache_dir=str(cache_dir)))
        return file
    # Whatever the network, the proxy or the hub's client raises, the remedy is the same.
    except Exception as error:
        raise WeightsError(
            f"the CLIP weights {name} could not be downloaded ({type(error).__name__}): {_REMEDIES}"
        ) from error


def _reach_hub(tag: dict[str, Any]) -> None:
    """Fail at once where the hub cannot be reached: its client tries for a minute, and says so.

    Raises:
        httpx.HTTPError: nothing answers.
    """
    import httpx
    from huggingface_hub import constants

    if tag.get("hf_hub") and not constants.HF_HUB_OFFLINE:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        httpx.head(constants.ENDPOINT, timeout=_HUB_SECONDS)


def _kept(tag: dict[str, Any], cache_dir: Path) -> Path | None:
    """The checkpoint of a tag if an earlier start has downloaded it."""
    import huggingface_hub

    repository, _, file_name = str(tag.get("hf_hub", "")).rpartition("/")
    if not repository:
        return None
    names = [file_name] if file_name else list(_HUB_FILE_NAMES)
    for name in names:
        kept = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir=cache_dir)
        if isinstance(kept, str):
            return Path(kept)
    return None
