"""Whether Label Studio serves the published order, and what comes before it.

The order of checks is that of Label Studio's own `projects/functions/next_task.py`: ground truth,
low agreement, overlap, breadth first, and only then sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.doctor.findings import ORDER, Finding, fail, ok, warn
from backend.label_studio.client import UNCERTAINTY_SAMPLING, Studio
from backend.label_studio.records import BackendInfo, ProjectInfo
from backend.label_studio.tabs import TITLE
from backend.label_studio.versions import is_ours

BY_THE_TAB = f'open the tab "{TITLE}" of the Data Manager and press Label Tasks As Displayed'
_QUALITY = "in the project's settings under Quality"


def check_order(
    studio: Studio, project: ProjectInfo, backends: Sequence[BackendInfo]
) -> list[Finding]:
    """Whether an order of this backend is live."""
    rank = f"run `python -m backend score {project.id}`"
    current = project.model_version
    if not current:
        return [warn(ORDER, "No order was published yet", rank)]
    findings = []
    if project.sampling != UNCERTAINTY_SAMPLING:
        findings.append(warn(ORDER, f"The project samples by {project.sampling!r}", rank))
    count = studio.model_versions(project.id).get(current, 0)
    if current in {backend.title for backend in backends}:
        message = (
            f"The project's model version is {current!r}, the title of an ML backend: tasks come "
            "at random and every next task waits for the model"
        )
        findings.append(fail(ORDER, message, rank))
    elif count == 0:
        message = f"The project's model version {current} has no predictions: tasks come at random"
        findings.append(fail(ORDER, message, rank))
    elif not is_ours(current):
        message = f"The project's model version {current} was not published by this backend"
        findings.append(warn(ORDER, message, rank))
    elif not findings:
        findings.append(ok(ORDER, f"{current} is served, {count} tasks long"))
    return findings


def check_serving(studio: Studio, project: ProjectInfo) -> list[Finding]:
    """What Label Studio serves before the order, or instead of it, and whether boxes are shown."""
    findings = []
    if project.ground_truth_first:
        message = "Annotator evaluation is on: Label Studio serves tasks with a ground truth first"
        findings.append(warn("ground truth", message, f"switch it off {_QUALITY}"))
    if project.agreement_threshold:
        message = (
            "Label Studio serves labelled tasks again, before the order, where annotators agree "
            f"less than {project.agreement_threshold:g}"
        )
        findings.append(warn("agreement", message, f"take the agreement threshold out {_QUALITY}"))
    if project.overlap_first:
        message = "Label Studio serves tasks that want several annotations first"
        remedy = f"switch Show tasks with overlap first off {_QUALITY}"
        findings.append(warn("overlap first", message, remedy))
    if project.maximum_annotations > 1:
        message = (
            f"Every task wants {project.maximum_annotations} annotations: Label Studio first "
            "serves begun tasks, at random"
        )
        remedy = f"set Annotations per task to 1 {_QUALITY}"
        findings.append(warn("overlap", message, remedy))
    members = studio.member_count(project.id)
    if members is not None and members > 1:
        message = f"The project has {members} members: Label Studio draws tasks at random for them"
        findings.append(warn("members", message, BY_THE_TAB))
    if not project.show_predictions:
        message = "Annotators are not shown the model's boxes"
        remedy = "switch on Use predictions to prelabel tasks, in Settings > Annotation"
        findings.append(warn("boxes", message, remedy))
    return findings
