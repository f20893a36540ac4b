"""What is wrong between this backend and Label Studio, and the one thing to do about each.

Nothing here changes anything or locks a task. Checks go from the outside in and stop where the
rest could only repeat the same news.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.doctor.findings import TASKS, Finding, fail, failed, ok, warn
from backend.doctor.serving import check_order, check_serving
from backend.doctor.tested_versions import TESTED
from backend.errors import AccessError, HardestFirstError, LabelConfigError, LabelStudioError
from backend.images.source import ImageSource
from backend.label_studio.client import Studio
from backend.label_studio.label_map import LabelMap, listed
from backend.label_studio.records import BackendInfo, ProjectInfo
from backend.label_studio.versions import is_ours
from backend.label_studio.webhooks import is_own_server, reports_annotations
from backend.settings import Settings

OrderProbe = Callable[[ProjectInfo], list[Finding]]

OPEN_PRIVATE_NETWORKS = (
    "set LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false in Label Studio's environment (since 1.23 "
    "it calls no private address otherwise) and connect the backend again"
)


def diagnose(
    settings: Settings,
    project_id: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    order_probe: OrderProbe | None = None,
) -> list[Finding]:
    """`examine`, for settings that may not even make a connection."""
    try:
        studio = Studio.from_settings(settings)
    except HardestFirstError as error:
        check = "token" if isinstance(error, AccessError) else "address"
        return [failed(check, error)]
    with studio:
        return examine(
            studio,
            settings,
            project_id,
            class_names=class_names,
            order_probe=order_probe,
        )


def examine(
    studio: Studio,
    settings: Settings,
    project_id: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    order_probe: OrderProbe | None = None,
) -> list[Finding]:
    """Look at everything the loop needs of Label Studio.

    Args:
        studio: the Label Studio.
        settings: ours.
        project_id: the project; None: only the connection is checked.
        class_names: the detector's classes; None: the labels are not compared.
        order_probe: what else is known of an order that is live and looks right.
    """
    findings, connected = _connection(studio)
    if not connected or project_id is None:
        return findings
    try:
        project = studio.project(project_id)
        findings.append(ok("project", f'Project {project.id} "{project.title}"'))
        label_findings, data_field = _labels(project, class_names)
        findings += label_findings
        if data_field is None:
            return findings
        findings += _tasks(project)
        if project.task_count == 0:
            return findings
        findings += _image(studio, settings, project, data_field)
        backends = studio.backends(project_id, refresh=True)
        order = check_order(studio, project, backends)
        if order_probe is not None and all(finding.level == "ok" for finding in order):
            order = order_probe(project) or order
        findings += order
        findings += check_serving(studio, project)
        findings += _backend(backends, settings, project)
        findings += _webhook(studio, project_id, backends)
    except LabelStudioError as error:
        findings.append(failed("project", error))
    return findings


def _connection(studio: Studio) -> tuple[list[Finding], bool]:
    try:
        release = studio.release()
    except LabelStudioError as error:
        return [failed("address", error)], False
    edition = f" ({release.edition})" if release.edition else ""
    named = f"Label Studio {release.version}{edition}"
    findings = [ok("address", f"{named} answers at {studio.url}"), _tested(release.version)]
    try:
        user = studio.whoami()
    except LabelStudioError as error:
        return [*findings, failed("token", error)], False
    kind = "Personal access token" if studio.auth.kind == "personal" else "Legacy token"
    return [*findings, ok("token", f"{kind} of {user.email}")], True


def _tested(version: str) -> Finding:
    """Whether this release was tested; of a minor release, any patch."""
    minor = version.split(".")[:2]
    found = next((known for known in TESTED if known.split(".")[:2] == minor), None)
    if found is None:
        message = f"Label Studio {version} was not tested; {', '.join(TESTED)} were"
        return Finding("version", "warn", message)
    differs = f"; it {TESTED[found]}" if TESTED[found] else ""
    return ok("version", f"tested with Label Studio {found}{differs}")


def _tasks(project: ProjectInfo) -> list[Finding]:
    if project.task_count == 0:
        return [warn(TASKS, "The project has no tasks", "import images")]
    left = project.task_count - project.labelled_count
    return [ok(TASKS, f"{project.task_count} tasks, {left} of them without an annotation")]


def _labels(
    project: ProjectInfo, class_names: Sequence[str] | None
) -> tuple[list[Finding], str | None]:
    """Findings on the label config, and the data field of the image if there is one."""
    try:
        mapped = LabelMap.build(project.label_config, class_names or ())
    except LabelConfigError as error:
        return [failed("labels", error)], None
    field = mapped.control.data_field
    if class_names is None:
        return [ok("labels", f"RectangleLabels {mapped.control.from_name!r}")], field
    if not mapped.labels:
        finding = fail(
            "labels",
            f"No class of the model is a label of the project: no boxes are shown. The model has "
            f"{listed(class_names)}; the project has {listed(mapped.unmapped_labels)}",
            'name the class in a label, as in <Label value="Car" predicted_values="car,truck"/>',
        )
        return [finding], field
    count = len(mapped.labels)
    findings = [ok("labels", f"{count} {'class has' if count == 1 else 'classes have'} a label")]
    for line in mapped.warnings():
        message, _, remedy = line.partition("; ")
        findings.append(warn("labels", message, remedy))
    return findings, field


def _image(
    studio: Studio, settings: Settings, project: ProjectInfo, data_field: str
) -> list[Finding]:
    task = next(studio.tasks(project.id, page_size=1), None)
    if task is None:
        return []
    # Without the cache: a kept copy would hide that the image is out of reach now.
    source = ImageSource(
        studio.url,
        studio.auth,
        local_files_root=settings.local_files_root,
        allowed_hosts=settings.allowed_image_hosts,
        public_url=settings.label_studio_public_url,
    )
    try:
        source.fetch_task(task, data_field)
    except HardestFirstError as error:
        return [failed("images", error)]
    finally:
        source.close()
    return [ok("images", f"The image of task {task.id} can be fetched")]


def _backend(
    backends: Sequence[BackendInfo], settings: Settings, project: ProjectInfo
) -> list[Finding]:
    if not backends:
        return [
            warn(
                "backend",
                "No ML backend is connected: the order is served, but new annotations only arrive "
                "by polling",
                "connect this backend's address under Settings > Model",
            )
        ]
    mine = backends[0]
    wants_password = bool(settings.basic_auth_user)
    if mine.state != "Connected":
        remedy = (
            "give it the user and password of BASIC_AUTH_USER and BASIC_AUTH_PASS there"
            if wants_password and not mine.has_password
            else f"make {mine.url} reachable from Label Studio: "
            f"{mine.error_message or 'if it runs there already, ' + OPEN_PRIVATE_NETWORKS}"
        )
        message = f"The ML backend {mine.title!r} at {mine.url} is {mine.state.lower()}"
        return [fail("backend", message, remedy)]
    findings = [ok("backend", f"{mine.title!r} at {mine.url} is connected")]
    if len(backends) > 1:
        message = f"{len(backends)} ML backends are connected; Label Studio asks only one"
        findings.append(warn("backend", message, "disconnect the others"))
    if is_ours(project.model_version) and mine.model_version != project.model_version:
        findings.append(
            warn(
                "backend",
                f"The ML backend answers with version {mine.model_version or 'none'}, but "
                f"{project.model_version} is served: the tab sorts by the wrong one",
                "restart the backend, so that it knows what is published",
            )
        )
    return findings


def _webhook(studio: Studio, project_id: int, backends: Sequence[BackendInfo]) -> list[Finding]:
    if not backends:
        return []
    wanted = {f"{backend.url.rstrip('/')}/webhook" for backend in backends}
    hooks = [hook for hook in studio.webhooks(project_id) if hook.url in wanted]
    unheard = [h for h in hooks if not h.sends_payload and is_own_server(h.url) is False]
    if unheard:
        return [
            warn(
                "webhook",
                f"The webhook to {unheard[0].url} is sent without payload, which only `python -m "
                "backend serve` understands: new annotations only arrive by polling",
                "start `python -m backend worker`, which puts the payload back",
            )
        ]
    if any(reports_annotations(hook) for hook in hooks):
        return [ok("webhook", "Label Studio reports annotations as they come")]
    if hooks:
        return [
            warn(
                "webhook",
                f"The webhook to {hooks[0].url} is off or leaves out events or payload",
                "activate it with payload, for all actions, under Settings > Webhooks",
            )
        ]
    return [
        warn(
            "webhook",
            "Label Studio made no webhook for the ML backend: new annotations only arrive by "
            "polling",
            OPEN_PRIVATE_NETWORKS,
        )
    ]
