"""Networks converted to OpenVINO: once per content, kept on disk, never half-written."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import WeightsError
from backend.vision.openvino_import import import_openvino
from backend.vision.weights import short_hash

if TYPE_CHECKING:
    import torch

# Raise it when the conversion or what is stored beside it changes: old exports are then ignored.
_RECIPE = 2
_STALE_SECONDS = 24 * 3600
_PARTIAL_PREFIX = ".partial-"


@dataclass(frozen=True)
class Export:
    """A converted network and what must be known to feed it.

    Args:
        model: an `openvino.Model`.
        facts: JSON-able facts stored beside it (class names, input size, preprocessing).
    """

    model: Any
    facts: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A network still in torch, with its facts and the input shape to convert it for.

    Args:
        module: takes (N, 3, H, W) uint8.
        facts: see `Export`.
        shape: (N, 3, H, W), -1 where any size or number is accepted.
        example: (H, W) to trace it with.
    """

    module: torch.nn.Module
    facts: dict[str, Any]
    shape: tuple[int, int, int, int]
    example: tuple[int, int]


def cached_export(
    kind: str, key: tuple[object, ...], export_dir: Path, build: Callable[[], Source]
) -> Export:
    """The converted network, from the cache or else converted now.

    Args:
        kind: readable beginning of the folder's name.
        key: everything that decides the result: the weights' content hash and the options.
        export_dir: where exports are kept.
        build: loads the network in torch; called only when it is not in the cache.

    Raises:
        WeightsError: the conversion failed, or a kept export is damaged.
    """
    openvino = import_openvino()

    folder = _folder(kind, key, export_dir)
    if not folder.is_dir():
        _write(folder, build())
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        return Export(openvino.Core().read_model(folder / "model.xml"), facts)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the converted model in {folder.name} is damaged ({type(error).__name__}): "
            "delete that folder under DATA_DIR/exports, it is made anew"
        ) from error


def drop_export(kind: str, key: tuple[object, ...], export_dir: Path) -> None:
    """Remove what `cached_export` keeps under the same arguments, if it does."""
    shutil.rmtree(_folder(kind, key, export_dir), ignore_errors=True)


def _folder(kind: str, key: tuple[object, ...], export_dir: Path) -> Path:
    version = import_openvino().__version__.split("-")[0]
    return export_dir / f"{kind}-{short_hash(*key, version, _RECIPE)}"


def convert(source: Source) -> Any:
    """A torch network as an `openvino.Model` with full-precision weights."""
    openvino = import_openvino()
    import torch

    # Two images: a trace of one could take their number for a constant.
    example = torch.zeros((2, 3, *source.example), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        # Tracing warns of every shape that Python looks at; parity is tested instead.
        warnings.simplefilter("ignore")
        # Traced here, since OpenVINO's own tracing runs twice more to compare: three times slower.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            source.module.eval(), example, strict=False, check_trace=False
        )
        return openvino.convert_model(traced, example_input=example, input=list(source.shape))


def _write(folder: Path, source: Source) -> None:
    """Convert into a folder beside `folder`, then rename: others see all of it or nothing."""
    openvino = import_openvino()

    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=folder.parent))
    try:
        openvino.save_model(convert(source), partial / "model.xml", compress_to_fp16=False)
        (partial / "facts.json").write_text(json.dumps(source.facts), encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster: its folder is there, not empty, and as good.
            if not folder.is_dir():
                raise
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"the model cannot be converted to OpenVINO ({type(error).__name__}: "
            f"{_first_line(error)}): set DEVICE to a GPU, or use another model"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_stale(export_dir: Path) -> None:
    """Remove what killed exports have left. A day old: a live one is never touched."""
    for partial in export_dir.glob(f"{_PARTIAL_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0]
