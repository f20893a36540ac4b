"""Label files of YOLO data sets, read as Ultralytics reads them; what is odd is counted, not fatal.

Two rules differ from Ultralytics' own, for here the boxes are the ground truth:
a box that reaches over an edge is cut there, and one without an area is left out. Like there, an
image whose labels cannot be read is left out as a whole: without them it would pass for empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.training.matching import Boxes

# What Ultralytics allows of a centre or a size, beyond 0 to 1 (verify_image_label).
_TOLERANCE = 0.01

_NO_FILE = "images have no label file: they count as backgrounds"
_UNREADABLE = "images are left out, for their labels cannot be read"
_TWICE = "boxes are there twice: they count once"
_POLYGON = "polygons became the boxes around them"
_SIXTH = "rows have a sixth number, which is ignored"
_CUT = "boxes reach over the edge of their image: they are cut there"
_NO_AREA = "boxes without an area are left out"


class _UnreadableError(ValueError):
    """A label file that says something else than boxes."""


class LabelReader:
    """Reads label files and counts what is odd about them.

    Args:
        classes: C, how many classes have a name.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._counts: Counter[str] = Counter()
        self._first_unreadable = ""

    def read(self, path: Path) -> Boxes | None:
        """The boxes in a file, as shares (0..1) of the image; None: they cannot be read."""
        try:
            # With or without a byte-order mark, and with line ends of either kind.
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            rows = [
                row
                for number, line in enumerate(lines, start=1)
                if line.strip()
                for row in self._rows(line, f"{path} line {number}")
            ]
        except FileNotFoundError:
            self._counts[_NO_FILE] += 1
            rows = []
        except (OSError, ValueError) as error:
            self._counts[_UNREADABLE] += 1
            self._first_unreadable = self._first_unreadable or (
                str(error) if isinstance(error, _UnreadableError) else f"{path}: {error}"
            )
            return None
        once = list(dict.fromkeys(rows))
        self._counts[_TWICE] += len(rows) - len(once)
        table: NDArray[np.float64] = np.array(once, dtype=np.float64).reshape(-1, 5)
        return Boxes(table[:, 1:], table[:, 0].astype(np.intp))

    def notes(self) -> list[str]:
        """What was left out or mended, one line each."""
        lines = [f"{count} {what}" for what, count in self._counts.items() if count]
        unreadable = self._counts[_UNREADABLE]
        return [
            f"{line} ({'the first: ' if unreadable > 1 else ''}{self._first_unreadable})"
            if line.endswith(_UNREADABLE)
            else line
            for line in lines
        ]

    def _rows(self, line: str, where: str) -> Iterator[tuple[float, ...]]:
        """One row: class, then left, top, right, bottom as shares; none where it has no area.

        Raises:
            _UnreadableError: it is no label.
        """
        values = self._numbers(line, where)
        edges = self._edges(values)
        inside = tuple(min(max(edge, 0.0), 1.0) for edge in edges)
        if not (inside[0] < inside[2] and inside[1] < inside[3]):
            self._counts[_NO_AREA] += 1
            return
        if max(abs(a - b) for a, b in zip(edges, inside, strict=True)) > _TOLERANCE:
            self._counts[_CUT] += 1
        yield (values[0], *inside)

    def _numbers(self, line: str, where: str) -> tuple[float, ...]:
        try:
            values = tuple(float(text) for text in line.split())
        except ValueError:
            values = ()
        # Class and box, a sixth number, or class and the corners of a polygon.
        if len(values) not in (5, 6) and (len(values) < 7 or len(values) % 2 == 0):
            raise _UnreadableError(
                f"{where} is neither five numbers (class, centre x, centre y, width, height) nor a "
                f"polygon: {line[:60]}"
            )
        if values[0] not in range(self._classes):
            raise _UnreadableError(
                f"{where}: class {values[0]:g} has no name, only 0 to {self._classes - 1} have"
            )
        shares = values[1:] if len(values) >= 7 else values[1:5]
        # Written so that NaN fails too.
        if not all(-_TOLERANCE <= share <= 1 + _TOLERANCE for share in shares):
            raise _UnreadableError(
                f"{where} is not in shares of the image's width and height (0 to 1): {line[:60]}"
            )
        return values

    def _edges(self, values: tuple[float, ...]) -> tuple[float, float, float, float]:
        if len(values) >= 7:
            self._counts[_POLYGON] += 1
            across, down = values[1::2], values[2::2]
            return min(across), min(down), max(across), max(down)
        if len(values) == 6:
            self._counts[_SIXTH] += 1
        x, y, width, height = values[1:5]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def label_path(image: Path) -> Path:
    """Where the labels of an image are: beside `images` in `labels`, or beside the image.

    >>> label_path(Path("/set/images/train/a.jpg")).as_posix()
    '/set/labels/train/a.txt'
    """
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")
