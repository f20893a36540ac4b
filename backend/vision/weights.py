"""Where weights may come from: MODEL_DIR, or an official Ultralytics name fetched into it.

A .pt file is a pickle, so loading one runs whatever code it holds. Hence nothing outside MODEL_DIR
is ever loaded, and no address is ever fetched but that of an official name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from backend.errors import WeightsError

_OFFICIAL_DETECTORS = re.compile(
    r"(yolov3(-spp|-tiny)?u|yolov5[nsmlx]6?u|yolov8[nsmlx](-oiv7)?|yolov9[tsmce]"
    r"|yolov10[nsmblx]|yolo11[nsmlx]|yolo12[nsmlx]|yolo26[nsmlx])\.pt"
)
_CHUNK_BYTES = 1 << 20


def is_official(name: str) -> bool:
    """Whether `name` is a detection checkpoint that Ultralytics publishes.

    >>> is_official("yolo11n.pt"), is_official("yolo11n-seg.pt"), is_official("best.pt")
    (True, False, False)
    """
    return _OFFICIAL_DETECTORS.fullmatch(name) is not None


def find_detector(
    name: str, model_dir: Path, *, download: Callable[[Path], None] | None = None
) -> Path:
    """The setting MODEL -> a path inside MODEL_DIR: a .pt or .onnx file or an OpenVINO folder.

    Args:
        name: the setting: relative to `model_dir`, or absolute.
        model_dir: the only folder weights are loaded from.
        download: fetches an official checkpoint to the path it is given (default: Ultralytics).

    Raises:
        WeightsError: outside MODEL_DIR, not there, or not to be fetched.
    """
    path = inside(name, model_dir, setting="MODEL")
    if path.exists():
        for entry in path.iterdir() if path.is_dir() else ():
            inside(str(entry), model_dir, setting="MODEL")
        return path
    if not is_official(name):
        raise WeightsError(
            f"MODEL={name} is not in MODEL_DIR: put the file there, "
            "or use an official Ultralytics name such as yolo11n.pt"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (download or _download)(path)
    # Whatever the network, the proxy or the library raises, the remedy is the same.
    except Exception as error:
        raise WeightsError(_not_fetched(name, type(error).__name__)) from error
    if not path.is_file():
        raise WeightsError(_not_fetched(name, "no file came"))
    return path


def inside(name: str, model_dir: Path, *, setting: str) -> Path:
    """`name` resolved against MODEL_DIR, links and '..' included.

    Raises:
        WeightsError: it ends outside of MODEL_DIR. `setting` is named in the message.
    """
    try:
        root = model_dir.resolve()
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{setting}={name!r} is no usable path: {error}") from None
    if not name or path == root or not path.is_relative_to(root):
        raise WeightsError(
            f"{setting}={name} is not a file inside MODEL_DIR, the only folder weights are loaded "
            "from (links are followed): copy it there"
        )
    return path


def content_hash(path: Path) -> str:
    """SHA-256 in hex of a file, or of the files directly in a folder with their names."""
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_file():
                digest.update(entry.name.encode() + b"\0")
                _feed(digest, entry)
    else:
        _feed(digest, path)
    return digest.hexdigest()


def short_hash(*parts: object) -> str:
    """12 hex digits that change whenever one of the parts does."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _feed(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror}") from None


def _download(path: Path) -> None:
    from backend.vision.ultralytics_import import import_ultralytics

    import_ultralytics()
    from ultralytics.utils.downloads import attempt_download_asset

    attempt_download_asset(str(path))


def _not_fetched(name: str, why: str) -> str:
    return (
        f"{name} is not in MODEL_DIR and could not be downloaded ({why}): "
        "download it elsewhere and put the file into MODEL_DIR"
    )
