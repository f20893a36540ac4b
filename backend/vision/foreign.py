"""Detectors exported by others: .onnx files and OpenVINO folders, both read by OpenVINO."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.vision.openvino_import import import_openvino

_DEFAULT_SIZE = 640
# The first convolution of the head's box branch at each scale, as torch, or ONNX, calls it.
_HEAD = re.compile(r"model\.\d+[./].*cv2\.(\d)\.0[./]conv")
_HOW_TO_EXPORT = "export it again from the .pt with `yolo export ... format=openvino dynamic=True`"


@dataclass(frozen=True)
class ForeignExport:
    """A detector that was exported elsewhere.

    Args:
        model: an `openvino.Model` that takes (1, 3, H, W) uint8 and gives (1, 4 + C, A), and
            the (1, c, h, w) maps that its head works on, where they are found.
        class_names: (C,) names.
        canvas: (width, height) in pixels of its input.
        stride: multiple to which padding may be cut, or None where its shape is fixed.
        has_features: whether what its head works on was found in it.
    """

    model: Any
    class_names: tuple[str, ...]
    canvas: tuple[int, int]
    stride: int | None
    has_features: bool


def read_foreign(path: Path) -> ForeignExport:
    """Read a .onnx file, or a folder with one OpenVINO model and Ultralytics' metadata.yaml.

    Raises:
        WeightsError: damaged, without metadata, not a detector, or without all class scores.
    """
    file = _model_file(path)
    openvino = import_openvino()

    try:
        model = openvino.Core().read_model(file)
    except (RuntimeError, OSError) as error:
        raise WeightsError(
            f"{path.name} cannot be read by OpenVINO ({type(error).__name__}): "
            "it is damaged or no model; export it again"
        ) from error
    facts = _metadata(model, file)
    names = _class_names(facts, path.name)
    _check_is_raw(model, facts, len(names), path.name)
    canvas, stride = _input(model, facts, path.name)
    has_features = _add_features(model)
    return ForeignExport(_with_uint8_input(model), names, canvas, stride, has_features)


def _model_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        if len(files) == 1:
            return files[0]
        raise WeightsError(f"the folder {path.name} must hold exactly one .xml, not {len(files)}")
    if path.suffix == ".onnx":
        return path
    raise WeightsError(
        f"{path.name} is no known kind of weights: MODEL must be a .pt, a .onnx or a folder "
        "with an OpenVINO model"
    )


def _metadata(model: Any, file: Path) -> dict[str, Any]:
    """What Ultralytics wrote beside the model: a YAML file, or properties of the .onnx."""
    if file.suffix == ".onnx":
        if not model.has_rt_info("framework"):
            return {}
        properties = model.get_rt_info("framework").astype(dict)
        return {str(key): _literal(value.astype(str)) for key, value in properties.items()}
    sidecar = file.with_name("metadata.yaml")
    if not sidecar.is_file():
        return {}
    import yaml

    try:
        loaded = yaml.safe_load(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WeightsError(f"{sidecar.name} beside {file.name} is damaged: {error}") from None
    return loaded if isinstance(loaded, dict) else {}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _class_names(facts: dict[str, Any], name: str) -> tuple[str, ...]:
    task, names = facts.get("task"), facts.get("names")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{name} holds no class names: {_HOW_TO_EXPORT}")
    if task != "detect" or facts.get("head") == "RTDETRDecoder":
        raise WeightsError(
            f"{name} is a {task} model with a {facts.get('head')} head: "
            "MODEL must be a YOLO detection model"
        )
    try:
        return tuple(str(names[index]) for index in range(len(names)))
    except KeyError:
        raise WeightsError(f"the class names of {name} are not numbered from 0") from None


def _check_is_raw(model: Any, facts: dict[str, Any], classes: int, name: str) -> None:
    """Refuse outputs that only tell the best class of a box."""
    options = facts.get("args")
    cut = facts.get("end2end") or (isinstance(options, dict) and options.get("nms"))
    shape = model.outputs[0].partial_shape
    rows = shape[1] if shape.rank.is_static and len(shape) == 3 else None
    is_raw = rows is not None and (rows.is_dynamic or rows.get_length() == 4 + classes)
    if cut or not is_raw:
        raise WeightsError(
            f"{name} gives {shape} instead of all class scores, (batch, {4 + classes}, anchors): "
            f"it was exported with its boxes already selected; {_HOW_TO_EXPORT}, with "
            "end2end=False and without nms, or set MODEL to the .pt itself"
        )


def _input(model: Any, facts: dict[str, Any], name: str) -> tuple[tuple[int, int], int | None]:
    """(width, height) of the input and the stride of its padding; the batch is set to 1."""
    shape = model.inputs[0].partial_shape
    if len(model.inputs) != 1 or len(shape) != 4:
        raise WeightsError(f"{name} does not take one batch of images: {_HOW_TO_EXPORT}")
    if shape[1].is_static and shape[1].get_length() != 3:
        raise WeightsError(
            f"{name} takes images of {shape[1]} channels: MODEL must take colour images (3)"
        )
    if shape[0].is_static and shape[0].get_length() != 1:
        raise WeightsError(f"{name} is fixed to batches of {shape[0]}: {_HOW_TO_EXPORT}")
    if shape[2].is_static and shape[3].is_static:
        return (shape[3].get_length(), shape[2].get_length()), None
    size = facts.get("imgsz", _DEFAULT_SIZE)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (int(width), int(height)), int(facts.get("stride", 32))


def _add_features(model: Any) -> bool:
    """Add the maps that the head works on as outputs; False: they cannot be found.

    The same as those of a checkpoint; see `yolo.network_of`.
    """
    from openvino import opset13

    scales = {}
    for node in model.get_ordered_ops():
        found = _HEAD.search(node.get_friendly_name())
        if found and "Convolution" in node.get_type_name():
            scales[int(found[1])] = node.input_value(0)
    if not scales:
        return False
    model.add_results([opset13.result(scales[index]) for index in sorted(scales)])
    return True


def _with_uint8_input(model: Any) -> Any:
    """Let the model take uint8 pixels: the division by 255 moves into the graph."""
    openvino = import_openvino()
    from openvino.preprocess import PrePostProcessor

    wanted = model.inputs[0].element_type
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    if wanted != openvino.Type.f32:
        steps.input().preprocess().convert_element_type(wanted)
    return steps.build()
