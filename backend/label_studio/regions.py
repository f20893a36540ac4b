"""What annotators drew: Label Studio's regions as boxes with labels, the reverse of `results.py`.

Nothing here raises on what Label Studio holds: whatever is no usable box is left out and counted.
The rules, in order, for one region of an annotation or a prediction:

- Relations, and regions of another kind or of another control, are no boxes.
- A region whose x, y, width or height (or rotation, where it has one) is no finite number, nor the
  text of one, is malformed.
- A negative width or height, which Label Studio makes of a box drawn to the left or upwards,
  reaches to the other side of x or y.
- Its label is the first of its labels that the config has (`label_map.match_label`: the same name,
  the same but for case, or one of a label's `predicted_values`). A renamed label keeps its old
  answers by naming the old label in its `predicted_values`. Without any such label it is left out.
- A side shorter than half a pixel is no side: the box has no area.
- A rotated rectangle becomes the smallest axis-parallel box around it. Label Studio turns it
  clockwise about its top left corner, in pixels: percent units are of different lengths in x and y.
- What reaches over the edge of the image is cut off; a box with nothing inside is left out.

`image_rotation` only says how the annotator had turned the view: the editor keeps coordinates, and
`original_width` and `original_height`, in the image as it came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.boxes import iou
from backend.label_studio.label_map import LabelMap, RectangleControl, match_label
from backend.label_studio.transport import one_line

# In pixels. What rounds to nothing is nothing.
SHORTEST_SIDE = 0.5
# The same as a share of the image, where nobody knows its pixels.
SHORTEST_SHARE = 1e-6


@dataclass(frozen=True)
class Box:
    """One labelled box.

    Args:
        region_id: Label Studio's id of the region; "" where it has none.
        label: a name of the control's labels, as in the config.
        xyxy: left, top, right, bottom as shares (0..1) of the upright image's width and height.
    """

    region_id: str
    label: str
    xyxy: tuple[float, float, float, float]


class Note(NamedTuple):
    """Why something was left out: `what` in the singular, and the words that follow.

    `mended`: it was not left out, but used otherwise than it was drawn.
    """

    what: str
    why: str = ""
    mended: bool = False

    def line(self, count: int) -> str:
        """For people.

        >>> Note("box", "outside of the image").line(2)
        '2 boxes outside of the image'
        """
        plural = "es" if self.what.endswith("x") else "s"
        return f"{count} {self.what}{plural if count != 1 else ''} {self.why}".rstrip()


@dataclass(frozen=True)
class ReadBoxes:
    """The boxes of one annotation, in its order.

    Args:
        boxes: the usable ones.
        noted: how often something was left out or mended. Those of several annotations add up
            (`collections.Counter`); `note_lines` writes them out.
    """

    boxes: tuple[Box, ...] = ()
    noted: Mapping[Note, int] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or mended, one line each."""
        return note_lines(self.noted)


def note_lines(noted: Mapping[Note, int]) -> tuple[str, ...]:
    """Counted notes for people, the most frequent first."""
    ordered = sorted(noted.items(), key=lambda item: (-item[1], item[0]))
    return tuple(note.line(count) for note, count in ordered)


def find_control(config: str, class_names: Sequence[str]) -> RectangleControl:
    """The control that annotations are read from: the one that predictions of these classes go to.

    Args:
        config: the project's label config, XML.
        class_names: the classes of the model that serves the project.

    Raises:
        LabelConfigError: as `label_map.rectangle_controls`.
    """
    return LabelMap.build(config, class_names).control


def read_boxes(
    result: object, control: RectangleControl, *, image_size: tuple[int, int] | None = None
) -> ReadBoxes:
    """The boxes of one annotation or prediction, by the rules at the top of this file.

    Args:
        result: Label Studio's list of regions. Anything may be in it.
        control: the control whose boxes are meant.
        image_size: (width, height) in pixels of the upright image; None: what each region says.
    """
    boxes = []
    noted: Counter[Note] = Counter()
    regions: Sequence[Any] = result if isinstance(result, list) else [result] if result else []
    for region in regions:
        kind = _other_kind(region, control)
        found = _read_box(region, control, image_size, noted) if kind is None else kind
        if isinstance(found, Box):
            boxes.append(found)
        else:
            noted[found] += 1
    return ReadBoxes(tuple(boxes), dict(noted))


def overlaps(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of N boxes with M others, whatever their labels.

    Returns:
        (N, M) in 0..1, higher = more alike.
    """
    sides = (
        np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)
        for boxes in (first, second)
    )
    return iou(*sides)


def _other_kind(region: Any, control: RectangleControl) -> Note | None:
    """What a region is that is no rectangle of this control; None: it is one."""
    if not isinstance(region, dict) or not isinstance(region.get("type"), str):
        return Note("malformed region")
    kind = region["type"]
    if kind == "relation":
        return Note("relation")
    if kind != "rectanglelabels":
        shape = one_line(kind.removesuffix("labels"), 30)
        return Note(f"{shape} region" if kind.endswith("labels") else f"{shape} result")
    if (region.get("from_name"), region.get("to_name")) != (control.from_name, control.to_name):
        return Note("box", "of another control")
    return None


def _read_box(
    region: Mapping[str, Any],
    control: RectangleControl,
    image_size: tuple[int, int] | None,
    noted: Counter[Note],
) -> Box | Note:
    value = region.get("value")
    if not isinstance(value, dict):
        return Note("malformed box")
    raw = [*(value.get(name) for name in ("x", "y", "width", "height")), value.get("rotation") or 0]
    numbers = [number for number in map(_number, raw) if number is not None]
    if len(numbers) < len(raw):
        return Note("malformed box")
    left, top, width, height = (side / 100 for side in numbers[:4])
    rotation = numbers[4]
    label = _label(value.get("rectanglelabels"), control, noted)
    if isinstance(label, Note):
        return label
    size = image_size or _stated_size(region)
    if size is None and rotation % 180:
        return Note("rotated box", "in an image of unknown size")
    least = [SHORTEST_SIDE / length for length in size] if size else [SHORTEST_SHARE] * 2
    if abs(width) < least[0] or abs(height) < least[1]:
        return Note("box", "without area")
    around = _around(left, top, width, height, rotation, size or (1, 1))
    inside = [min(max(0.0, side), 1.0) for side in around]
    if inside[2] - inside[0] < least[0] or inside[3] - inside[1] < least[1]:
        return Note("box", "outside of the image")
    over = [abs(side - cut) for side, cut in zip(around, inside, strict=True)]
    if max(over[0], over[2]) >= least[0] or max(over[1], over[3]) >= least[1]:
        noted[Note("box", "cut at the edge of the image", mended=True)] += 1
    region_id = region.get("id")
    name = region_id if isinstance(region_id, str) else ""
    return Box(name, label, (inside[0], inside[1], inside[2], inside[3]))


def _label(found: Any, control: RectangleControl, noted: Counter[Note]) -> str | Note:
    names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    if not names:
        return Note("box", "without a label")
    if len(names) > 1:
        several = "with several labels, of which the first known one counts"
        noted[Note("box", several, mended=True)] += 1
    known = (match_label(name, control.labels) for name in names)
    label = next((label for label in known if label is not None), None)
    if label is not None:
        return label.name
    return Note(
        "box",
        f"left out, as label {one_line(names[0], 60)!r} is not in the label config: add it there, "
        "or name it in predicted_values of the label that replaces it",
    )


def _around(
    left: float, top: float, width: float, height: float, degrees: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The axis-parallel box around a rectangle turned clockwise about its top left corner.

    All but `degrees` and `size` (pixels) are shares of the image.
    """
    turn = math.radians(degrees % 360)
    ratio = size[0] / size[1]
    across = (width * math.cos(turn), width * math.sin(turn) * ratio)
    down = (-height * math.sin(turn) / ratio, height * math.cos(turn))
    return (
        left + min(0.0, across[0]) + min(0.0, down[0]),
        top + min(0.0, across[1]) + min(0.0, down[1]),
        left + max(0.0, across[0]) + max(0.0, down[0]),
        top + max(0.0, across[1]) + max(0.0, down[1]),
    )


def _stated_size(region: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) in pixels as the region has them; None where it has none."""
    size = [_number(region.get(f"original_{side}")) for side in ("width", "height")]
    width, height = (int(side) if side is not None and side >= 1 else 0 for side in size)
    return (width, height) if width and height else None


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        number = float(found)
    except (ValueError, OverflowError):  # JSON's integers have no end
        return None
    return number if math.isfinite(number) else None
