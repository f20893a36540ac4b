"""Which of the project's labels each of the detector's classes is.

The label config must have a RectangleLabels control on an Image. Of several, the one that has a
label for most classes is taken, the first of them (in the order of the config) on a tie: so a model
trained on a control's own labels stays with that control. A class finds its label by name: the same
name first, then the same but for case, then one of the label's `predicted_values`
(comma-separated), each in the order of the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelConfigError
from backend.label_studio.transport import one_line

EXAMPLE = (
    '<Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="..."/></RectangleLabels>'
)


@dataclass(frozen=True)
class Label:
    """One label of a control.

    Args:
        name: what a result holds: the `alias`, where there is one, else the `value`.
        shown: what annotators read.
        predicted_values: names of classes that mean this label.
    """

    name: str
    shown: str
    predicted_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class RectangleControl:
    """A RectangleLabels control on an Image.

    Args:
        from_name: the control's name.
        to_name: the image's name.
        data_field: the key of the task's data that holds the image's URI.
        labels: its labels, in order.
    """

    from_name: str
    to_name: str
    data_field: str
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class LabelMap:
    """The control boxes go to, and the label of each class.

    Args:
        control: the chosen control.
        labels: label name by class name, for the classes that have one.
        unmapped_classes: classes without a label: their boxes are not shown to annotators.
        unmapped_labels: labels of no class: annotators draw these from nothing.
    """

    control: RectangleControl
    labels: Mapping[str, str]
    unmapped_classes: tuple[str, ...] = ()
    unmapped_labels: tuple[str, ...] = ()

    @classmethod
    def build(cls, config: str, class_names: Sequence[str]) -> LabelMap:
        """Read a label config and match the detector's classes to its labels.

        A map without any match is a map too: images are then ranked, but shown without boxes.

        Raises:
            LabelConfigError: the config is no XML, or has no RectangleLabels on an Image.
        """
        controls = rectangle_controls(config)
        maps = [cls._of(control, class_names) for control in controls]
        return max(maps, key=lambda found: len(found.labels))

    @classmethod
    def _of(cls, control: RectangleControl, class_names: Sequence[str]) -> LabelMap:
        labels = {}
        for name in class_names:
            label = match_label(name, control.labels)
            if label is not None:
                labels[name] = label.name
        used = set(labels.values())
        return cls(
            control=control,
            labels=labels,
            unmapped_classes=tuple(name for name in class_names if name not in labels),
            unmapped_labels=tuple(x.name for x in control.labels if x.name not in used),
        )

    @property
    def data_field(self) -> str:
        """The key of the task's data that holds the image's URI."""
        return self.control.data_field

    def warnings(self) -> tuple[str, ...]:
        """What does not match, one line each: classes without a label, labels without a class."""
        lines = []
        if self.unmapped_classes:
            names = listed(self.unmapped_classes)
            lines.append(
                f"No label for {names}: their boxes are not shown; add labels, or name the classes "
                "in predicted_values of a label"
            )
        if self.unmapped_labels:
            names = listed(self.unmapped_labels)
            lines.append(
                f"No class for {names}: annotators draw these from nothing until the model learns "
                "them; or name the model's class in predicted_values"
            )
        return tuple(lines)


def data_field(config: str) -> str:
    """The key of the task's data that holds the image's URI, whatever the classes are.

    Raises:
        LabelConfigError: as `rectangle_controls`.
    """
    return rectangle_controls(config)[0].data_field


def listed(names: Sequence[str], limit: int = 12) -> str:
    """`names` for a message: the first few, and how many more.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"


def rectangle_controls(config: str) -> list[RectangleControl]:
    """All RectangleLabels controls on an image, in the order of the config; at least one.

    Raises:
        LabelConfigError: the config is no XML, or has none, or none with a usable image.
    """
    # As slow to import as all the rest.
    from label_studio_sdk.label_interface.interface import LabelInterface

    try:
        interface = LabelInterface(config)
    except Exception as error:  # the SDK lets whatever its XML library raises through
        raise LabelConfigError(
            f"The label config cannot be read ({one_line(error, 120)}): correct it in the "
            "project's settings under Labeling Interface"
        ) from None
    controls = [control for control in interface.controls if control.tag == "RectangleLabels"]
    if not controls:
        raise LabelConfigError(_no_control(interface))
    images = {found.name: found for found in interface.objects if found.tag == "Image"}
    usable = []
    for control in controls:
        image = next((images[name] for name in control.to_name or [] if name in images), None)
        field = _field_of(image)
        if image is not None and field:
            usable.append(
                RectangleControl(
                    from_name=control.name,
                    to_name=image.name,
                    data_field=field,
                    labels=tuple(_label(key, tag) for key, tag in control.labels_attrs.items()),
                )
            )
    if not usable:
        raise LabelConfigError(_not_usable(controls, interface))
    return usable


def _no_control(interface: Any) -> str:
    tags = {control.tag for control in interface.controls}
    if "Rectangle" in tags and "Labels" in tags:
        return (
            "The label config draws with Rectangle and names with Labels: this backend needs the "
            f"two in one, as {EXAMPLE}"
        )
    if tags:
        return _not_supported(interface.controls, _object_tags(interface))
    return f"The label config has no RectangleLabels: add {EXAMPLE}"


def _not_usable(controls: Sequence[Any], interface: Any) -> str:
    """Why none of these RectangleLabels can be used."""
    tags = _object_tags(interface)
    on_other = {tags.get(name, "Image") for control in controls for name in control.to_name or []}
    if on_other and "Image" not in on_other:
        return _not_supported(controls, tags)
    return (
        f"RectangleLabels {controls[0].name!r} is on no Image with one picture a task "
        f'(value="$field"): use a config such as {EXAMPLE}'
    )


def _object_tags(interface: Any) -> dict[str, str]:
    return {found.name: found.tag for found in interface.objects}


def _not_supported(controls: Sequence[Any], tags: Mapping[str, str]) -> str:
    kinds = {
        f"{control.tag} on {tags[name]}" if name in tags else control.tag
        for control in controls
        for name in control.to_name or [""]
    }
    return (
        f"The project labels with {listed(sorted(kinds))}, and this backend only supports boxes on "
        f"images: name a project with a config such as {EXAMPLE}"
    )


def _field_of(image: Any) -> str:
    """`image` of `value="$image"`; "" for a list of pictures, a constant or a template."""
    value = image.attr.get("value", "") if image is not None else ""
    field = value[1:] if value.startswith("$") else ""
    return field if field and not set(field) & set("$/ {}[]") else ""


def _label(key: str, tag: Any) -> Label:
    values = str(tag.attr.get("predicted_values") or "").split(",")
    return Label(
        name=key,
        shown=str(tag.attr.get("value") or key),
        predicted_values=tuple(value.strip() for value in values if value.strip()),
    )


def match_label(name: str, labels: Sequence[Label]) -> Label | None:
    """The label that `name` means, by the rules at the top of this file; None: none does."""
    folded = name.strip().casefold()
    rules: tuple[Callable[[Label], bool], ...] = (
        lambda label: name in (label.name, label.shown),
        lambda label: folded in (label.name.strip().casefold(), label.shown.strip().casefold()),
        lambda label: folded in (value.casefold() for value in label.predicted_values),
    )
    for rule in rules:
        for label in labels:
            if rule(label):
                return label
    return None
