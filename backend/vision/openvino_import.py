"""The one door to the `openvino` package: it opens without reports of usage.

Left alone, its model converter reports to an analytics service when it is imported and when it
converts, and writes a folder `intel` into the home folder.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType


@functools.cache
def import_openvino() -> ModuleType:
    """Import the package with its reports off. Idempotent."""
    # Importing a module that is None here fails, and then the converter takes its silent stand-in.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    module: ModuleType = openvino
    return module
