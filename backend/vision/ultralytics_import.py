"""The one door to the `ultralytics` package: it opens without side effects.

Left alone, importing it looks the internet up, writes a settings file into the home folder,
limits torch to one thread and replaces PIL.Image.open by one that installs packages; using it
reports usage. Call
`import_ultralytics()` before any `from ultralytics... import ...`.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from types import ModuleType

_QUIET = {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",  # no look-ups, no usage reports; named downloads still work
    "YOLO_VERBOSE": "false",
}


@functools.cache
def import_ultralytics() -> ModuleType:
    """Import the package with installs, reports and settings files off. Idempotent.

    A variable that the user has set wins, `YOLO_AUTOINSTALL` and `YOLO_OFFLINE` excepted.
    """
    # First, because ultralytics sets OMP_NUM_THREADS=1 for a torch that is loaded after it.
    import torch  # noqa: F401
    from PIL import Image

    open_image = Image.open
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["YOLO_AUTOINSTALL"] = _QUIET["YOLO_AUTOINSTALL"]
    os.environ["YOLO_OFFLINE"] = _QUIET["YOLO_OFFLINE"]
    os.environ.setdefault("YOLO_VERBOSE", _QUIET["YOLO_VERBOSE"])
    if "YOLO_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="hardest-first-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["YOLO_CONFIG_DIR"] = folder

    import ultralytics

    Image.open = open_image
    if threads is None:
        # Child processes (a training run) would inherit it.
        os.environ.pop("OMP_NUM_THREADS", None)
    module: ModuleType = ultralytics
    return module
