"""What Label Studio sends, as plain frozen records: only the fields this project reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class ProjectInfo:
    """A project.

    Args:
        id: its number.
        title: its name.
        label_config: its labelling interface, XML.
        sampling: how the next task is chosen, in Label Studio's own words.
        model_version: the version whose predictions are shown and sampled by; "" when none is set.
            It may also hold the TITLE of a connected backend: see `publish.is_order_live`.
        maximum_annotations: annotations a task needs until it counts as labelled.
        show_predictions: whether annotators see predictions at all.
        task_count: tasks in it.
        labelled_count: tasks with at least one annotation.
        ground_truth_first: whether tasks with a ground truth come before the order.
        overlap_first: whether tasks that want several annotations do.
        agreement_threshold: the agreement below which labelled tasks come back, as Enterprise has
            it; 0 for none.
    """

    id: int
    title: str
    label_config: str
    sampling: str
    model_version: str
    maximum_annotations: int
    show_predictions: bool
    task_count: int
    labelled_count: int
    ground_truth_first: bool = False
    overlap_first: bool = False
    agreement_threshold: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ProjectInfo:
        """From a row of Label Studio's own JSON; all fields but `id` may be missing or null."""
        # The second name is that of older releases.
        evaluated, older = (
            row.get(name) for name in ("annotator_evaluation_enabled", "show_ground_truth_first")
        )
        return cls(
            id=row["id"],
            title=row.get("title") or "",
            label_config=row.get("label_config") or "",
            sampling=row.get("sampling") or "",
            model_version=row.get("model_version") or "",
            maximum_annotations=int(row.get("maximum_annotations") or 1),
            show_predictions=row.get("show_collab_predictions") is not False,
            task_count=row.get("task_number") or 0,
            labelled_count=row.get("num_tasks_with_annotations") or 0,
            ground_truth_first=bool(older if evaluated is None else evaluated),
            overlap_first=bool(row.get("show_overlap_first")),
            agreement_threshold=float(row.get("agreement_threshold") or 0),
        )


@dataclass(frozen=True)
class Release:
    """Which Label Studio answers.

    Args:
        version: as in "1.23.2".
        edition: "Community" or "Enterprise"; "" where it does not say.
    """

    version: str
    edition: str

    @classmethod
    def of(cls, answer: Any) -> Release | None:
        """From the answer of `/api/version`; None: it does not name a version."""
        if not isinstance(answer, dict) or not isinstance(answer.get("release"), str):
            return None
        return cls(answer["release"], str(answer.get("edition") or ""))


@dataclass(frozen=True)
class TaskRef:
    """A task, without its annotations and predictions.

    Args:
        id: its number, ascending in order of creation.
        data: its data as imported, URIs unresolved. Never write it back.
        is_labeled: whether it has all the annotations it needs.
        total_annotations: submitted annotations.
        cancelled_annotations: times it was skipped.
        updated_at: when it, or an annotation of it, last changed.
    """

    id: int
    data: Mapping[str, Any] = field(default_factory=dict)
    is_labeled: bool = False
    total_annotations: int = 0
    cancelled_annotations: int = 0
    updated_at: datetime | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TaskRef:
        """From a row of Label Studio's own JSON."""
        return cls(
            id=row["id"],
            data=row.get("data") or {},
            is_labeled=bool(row.get("is_labeled")),
            total_annotations=row.get("total_annotations") or 0,
            cancelled_annotations=row.get("cancelled_annotations") or 0,
            updated_at=_moment(row.get("updated_at")),
        )


@dataclass(frozen=True)
class AnnotationRef:
    """One annotation of a task.

    Args:
        id: its number.
        task_id: its task.
        result: its regions, in Label Studio's own form.
        annotator: number of the account that made it; None: that account is gone.
        was_cancelled: the task was skipped; `result` may hold regions all the same.
        ground_truth: whether it is marked as such.
        lead_time: seconds the annotator spent on it; None: unknown.
        created_at: when it was made.
        updated_at: when it last changed.
        parent_prediction: number of the prediction the annotator began from. None: from nothing,
            or that prediction was deleted since, which makes Label Studio forget it.
    """

    id: int
    task_id: int
    result: list[dict[str, Any]]
    annotator: int | None = None
    was_cancelled: bool = False
    ground_truth: bool = False
    lead_time: float | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    parent_prediction: int | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> AnnotationRef:
        """From a row of Label Studio's own JSON."""
        return cls(
            id=row["id"],
            task_id=row["task"],
            result=[dict(region) for region in row.get("result") or []],
            annotator=row.get("completed_by"),
            was_cancelled=bool(row.get("was_cancelled")),
            ground_truth=bool(row.get("ground_truth")),
            lead_time=row.get("lead_time"),
            created_at=_moment(row.get("created_at")),
            updated_at=_moment(row.get("updated_at")),
            parent_prediction=row.get("parent_prediction"),
        )


@dataclass(frozen=True)
class PredictionRef:
    """One prediction, without its regions. `score` is what the queue is sorted by, ascending."""

    id: int
    task_id: int
    model_version: str
    score: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> PredictionRef:
        """From a row of Label Studio's own JSON."""
        return cls(
            id=row["id"],
            task_id=row["task"],
            model_version=row.get("model_version") or "",
            score=row.get("score"),
        )


@dataclass(frozen=True)
class BackendInfo:
    """A connected ML backend.

    Args:
        id: its number.
        title: its name, which also serves as a `model_version` (the trap).
        url: where Label Studio calls it.
        model_version: the version its `/setup` last gave.
        state: "Connected", "Disconnected", "Error", "Training" or "Predicting".
        error_message: what its last setup said; "" when all is well.
        has_password: whether Label Studio sends it a user and a password.
    """

    id: int
    title: str
    url: str
    model_version: str
    state: str
    error_message: str
    has_password: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> BackendInfo:
        """From a row of Label Studio's own JSON."""
        return cls(
            id=row["id"],
            title=row.get("title") or "",
            url=row.get("url") or "",
            model_version=row.get("model_version") or "",
            state=row.get("readable_state") or "",
            error_message=row.get("error_message") or "",
            has_password=row.get("auth_method") == "BASIC_AUTH",
        )


@dataclass(frozen=True)
class WebhookInfo:
    """A webhook of a project.

    Args:
        id: its number.
        url: where it is sent.
        is_active: whether it is sent at all.
        sends_all: all kinds of events, whatever `actions` says.
        sends_payload: project, tasks and annotations come along; otherwise the action alone.
        actions: the kinds of events it is sent for.
        headers: sent along; they may hold a secret, so they are in no repr.
    """

    id: int
    url: str
    is_active: bool
    sends_all: bool
    sends_payload: bool
    actions: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> WebhookInfo:
        """From a row of Label Studio's own JSON."""
        return cls(
            id=row["id"],
            url=row.get("url") or "",
            is_active=bool(row.get("is_active", True)),
            sends_all=bool(row.get("send_for_all_actions")),
            sends_payload=bool(row.get("send_payload")),
            actions=frozenset(row.get("actions") or ()),
            headers=dict(row.get("headers") or {}),
        )


@dataclass(frozen=True)
class ViewInfo:
    """A tab of the Data Manager; `data` is all of it as Label Studio keeps it."""

    id: int
    title: str
    ordering: tuple[str, ...]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, found: Any) -> ViewInfo:
        """From the SDK's view."""
        data = dict(found.data or {})
        ordering = tuple(data.get("ordering") or ())
        return cls(id=found.id, title=data.get("title") or "", ordering=ordering, data=data)


@dataclass(frozen=True)
class UserInfo:
    """The account a token belongs to."""

    id: int
    email: str


def _moment(text: str | None) -> datetime | None:
    # Python 3.10 does not read the "Z" that Label Studio writes for UTC.
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))
