"""The weights that every training of a replay starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.errors import SimulationError, WeightsError
from backend.settings import Settings

_LAYOUTS = (".yaml", ".yml")
_LAYOUT_SIZE = 640  # pixels, as Ultralytics trains where nothing else is said


def find_model(name: str | None, settings: Settings) -> Path:
    """The file that `--model` names: weights, an architecture, or the name of a published one.

    Args:
        name: a .pt or .yaml file, an official name such as yolo11n.pt or yolo11n.yaml; None: the
            weights that MODEL names.
        settings: MODEL and MODEL_DIR.

    Raises:
        SimulationError: it is not there, or neither weights nor an architecture.
        WeightsError: official weights that are not there and cannot be fetched.
    """
    from backend.vision.weights import find_detector, is_official

    path = Path(name or settings.model)
    if path.suffix not in (".pt", *_LAYOUTS):
        raise SimulationError(f"--model {path} must be weights (.pt) or an architecture (.yaml)")
    if name and path.is_file():
        return path.absolute()
    if name is None or is_official(name):
        return find_detector(name or settings.model, settings.model_dir)
    if path.suffix in _LAYOUTS and _is_published(path):
        return path
    raise SimulationError(f"--model {path} is not there: name a .pt or .yaml file that is")


def input_size(model: Path) -> int:
    """The longer side, in pixels, of the input that a model was trained with.

    Raises:
        WeightsError: it cannot be loaded.
    """
    from backend.vision.yolo import read_checkpoint

    if model.suffix in _LAYOUTS:
        return _LAYOUT_SIZE
    return int(read_checkpoint(model, dynamic=False).facts["input_size"])


def write_start(model: Path, to: Path, class_names: Sequence[str], image_size: int) -> None:
    """Write the start weights: those of a .pt, or random ones in a .yaml's architecture.

    Args:
        model: the .pt or .yaml.
        to: the .pt to write.
        class_names: of the data set: what a .yaml's network can see.
        image_size: longer side of its input in pixels.

    Raises:
        WeightsError: it cannot be loaded.
    """
    from backend.training.stripping import save_stripped
    from backend.vision.ultralytics_import import import_ultralytics
    from backend.vision.yolo import network_of, read_checkpoint

    import_ultralytics()
    import torch
    from ultralytics.nn.tasks import DetectionModel

    if model.suffix in _LAYOUTS:
        torch.manual_seed(0)
        try:
            network = DetectionModel(str(model), nc=len(class_names), verbose=False)
        # A wrong architecture may trip over anything.
        except Exception as error:
            raise WeightsError(
                f"{model.name} is no architecture of a YOLO detector ({type(error).__name__})"
            ) from error
        network.names, network.task = dict(enumerate(class_names)), "detect"
        save_stripped(network, to, image_size=image_size)
        network_of(network, name=model.name, dynamic=False)  # raises what cannot be decoded
    else:
        read_checkpoint(model, dynamic=False)  # raises, with the remedy, what is no detector
        checkpoint = torch.load(model, map_location="cpu", weights_only=False)
        save_stripped(checkpoint.get("ema") or checkpoint["model"], to, image_size=image_size)


def _is_published(layout: Path) -> bool:
    """Whether Ultralytics brings an architecture of this name; a letter after it is its scale."""
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    from ultralytics.utils import ROOT

    known = {path.stem for path in (ROOT / "cfg" / "models").rglob("*.yaml")}
    return layout.parent == Path() and not known.isdisjoint({layout.stem, layout.stem[:-1]})
