"""Networks converted to OpenVINO: once per content, kept on disk, never half-written."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.disk import write_whole
from backend.errors import WeightsError
from backend.vision.openvino_import import import_openvino
from backend.vision.weights import short_hash

if TYPE_CHECKING:
    import torch

# Raise it when the conversion or what is stored beside it changes: old exports are then ignored.
_RECIPE = 4
_STALE_SECONDS = 24 * 3600
_PARTIAL_PREFIX = ".partial-"
_MODEL = "model.xml"
_FACTS = "facts.json"

logger = logging.getLogger(__name__)


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
        WeightsError: the conversion failed, or the disk is full.
    """
    folder = _folder(kind, key, export_dir)
    kept = _read(folder) if folder.is_dir() else None
    if kept is None:
        _write(folder, build())
        kept = _read(folder)
    if kept is None:
        raise WeightsError(
            f"the converted model in {folder} cannot be read right after it was written: check "
            "the disk of DATA_DIR"
        )
    return kept


def _read(folder: Path) -> Export | None:
    """What is kept in a folder; None where it is damaged, and removed then."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        # A cut weights file may be read without an error, and give other numbers.
        if facts["bytes"] == _sizes(folder):
            model = import_openvino().Core().read_model(folder / _MODEL)
            return Export(model, facts["facts"])
        why = "a file of it has another size"
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        why = type(error).__name__
    logger.warning("the converted model in %s is damaged (%s): it is converted again", folder, why)
    # Renamed first: another process either finds all of it or nothing.
    aside = folder.with_name(f"{_PARTIAL_PREFIX}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _sizes(folder: Path) -> dict[str, int]:
    """File name -> bytes, of all but the facts."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != _FACTS}


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
    try:
        model = convert(source)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"the model cannot be converted to OpenVINO ({type(error).__name__}: "
            f"{_first_line(error)}): set DEVICE to a GPU, or use another model"
        ) from error
    partial = folder.with_name(f"{_PARTIAL_PREFIX}{secrets.token_hex(8)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        partial.mkdir()
        import_openvino().save_model(model, partial / _MODEL, compress_to_fp16=False)
        facts = {"facts": source.facts, "bytes": _sizes(partial)}
        write_whole(partial / _FACTS, json.dumps(facts).encode())
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster: its folder is there, not empty, and as good.
            if not folder.is_dir():
                raise
    # OpenVINO raises a RuntimeError that does not say why it cannot write.
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the converted model cannot be written to {folder.parent} ({_first_line(error)}): "
            "free some space on that disk, and check that this account may write there"
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
