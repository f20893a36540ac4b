"""Fetching the bytes of an image from wherever a task's URI points.

    /data/upload/..., /data/local-files/?d=...    Label Studio itself, with the token
    s3://, gs://, azure-blob://                   Label Studio's resolver of the task (a redirect)
    http://, https://                             as they are; the token only to Label Studio's host
    data:                                         decoded

Bytes come as stored: turning a photograph upright (EXIF) is the decoder's work.
"""

from __future__ import annotations

import base64
import binascii
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from backend.errors import ImageError, UnreachableError
from backend.label_studio.auth import TokenAuth
from backend.label_studio.client import Studio
from backend.label_studio.image_cache import ImageCache
from backend.label_studio.records import TaskRef
from backend.label_studio.transport import one_line
from backend.settings import Settings

CLOUD_SCHEMES = ("s3", "gs", "azure-blob", "azure_blob", "redis", "gcs", "azure")
LOCAL_FILES = "/data/local-files/"
MAX_IMAGE_BYTES = 256_000_000
MAX_PAUSE_S = 20.0
OUT_OF_REACH = "see that this machine reaches its server"


def browser_url(url: str, task_id: int | None, uri: str) -> str:
    """Where whoever is logged in to Label Studio finds an image.

    Args:
        url: address of Label Studio.
        task_id: the task; cloud URIs are resolved through it.
        uri: as in the task's data.

    Returns:
        An absolute address; "" for a URI that has none.

    >>> browser_url("https://host/studio", 7, "/data/upload/1/a.jpg")
    'https://host/studio/data/upload/1/a.jpg'
    >>> browser_url("https://host", 7, "s3://bucket/a.jpg")
    'https://host/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQvYS5qcGc='
    """
    base = url.rstrip("/")
    scheme = urlsplit(uri).scheme.lower()
    if scheme in CLOUD_SCHEMES and task_id is not None:
        coded = base64.urlsafe_b64encode(uri.encode()).decode()
        return f"{base}/tasks/{task_id}/resolve/?fileuri={coded}"
    if uri.startswith("/"):
        prefix = urlsplit(base).path
        return f"{base}{uri.removeprefix(prefix) if uri.startswith(f'{prefix}/') else uri}"
    return uri if scheme in ("http", "https") else ""


def image_uri(task: TaskRef, field: str) -> str:
    """The URI in `field` of a task's data.

    Raises:
        ImageError: the field is missing, empty or no string.
    """
    uri = task.data.get(field)
    if not isinstance(uri, str) or not uri.strip():
        found = ", ".join(sorted(task.data)) or "nothing"
        raise ImageError(
            f"Task {task.id} has no image in {field!r} (it has: {one_line(found, 80)}): import "
            "it with that field, or correct the label config"
        )
    return uri


class _PassingError(Exception):
    """A failure that may pass: worth another try. The message is what an ImageError would say."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class _StudioDownError(_PassingError):
    """Label Studio itself is not there: not this image's fault."""


class ImageSource:
    """Where images come from. Safe for several threads, which share its connections.

    Args:
        url: address of Label Studio; only its scheme, host and port ever see the token.
        auth: the token, as in `Studio.auth`.
        cache: where fetched images are kept; None keeps none.
        local_files_root: Label Studio's document root, if it is visible here: local files are then
            read from disk. "" reads them over HTTP.
        timeout: seconds to wait for the next bytes; ten times that for a whole image.
        retries: how often a failure that may pass is tried again.
        max_bytes: a larger image is refused while it is read.
        transport: where requests go instead of the network; for tests.
    """

    def __init__(
        self,
        url: str,
        auth: TokenAuth | None,
        *,
        cache: ImageCache | None = None,
        local_files_root: str = "",
        timeout: float = 30.0,
        retries: int = 3,
        max_bytes: int = MAX_IMAGE_BYTES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._auth = auth
        self._cache = cache
        self._local_root = Path(local_files_root).resolve() if local_files_root else None
        self._timeout = timeout
        self._retries = retries
        self._max_bytes = max_bytes
        self._http = httpx.Client(
            timeout=timeout,
            follow_redirects=True,
            transport=transport,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
        )

    @classmethod
    def from_settings(
        cls, settings: Settings, studio: Studio | None = None, *, timeout: float = 30.0
    ) -> ImageSource:
        """The source that the settings describe; it shares the access token of `studio`.

        Raises:
            AccessError: the token cannot work.
        """
        url = settings.label_studio_url
        key = settings.label_studio_api_key.get_secret_value()
        return cls(
            url,
            TokenAuth(url, key) if studio is None else studio.auth,
            cache=ImageCache(settings.image_cache_dir, settings.image_cache_mb * 1_000_000),
            local_files_root=settings.local_files_root,
            timeout=timeout,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def fetch_task(self, task: TaskRef, field: str) -> bytes:
        """The image that `field` of the task's data points to.

        Raises:
            ImageError: the field is missing or no string, or the image cannot be fetched.
        """
        return self.fetch(image_uri(task, field), task_id=task.id)

    def fetch(self, uri: str, *, task_id: int | None = None) -> bytes:
        """The bytes behind `uri`, from the cache if they are there.

        Args:
            uri: as in the task's data.
            task_id: the task; cloud URIs are resolved through it.

        Raises:
            ImageError: one line on why these bytes cannot be had. Other images may be.
            AccessError: the token is dead, so no image of Label Studio can be fetched.
            UnreachableError: Label Studio is down, so none of its images can be fetched.
        """
        uri = uri.strip()
        name = _shown(uri)
        if uri.startswith("data:"):
            return _decoded(uri, self._max_bytes)
        path = self._on_disk(uri)
        if path is not None:
            return self._read(path, name)
        address, is_studio = self._locate(uri, task_id)
        # One cache may serve several Label Studios, whose uploads have like paths.
        key = uri if not is_studio else f"{self._url} {uri}"
        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            return kept
        content = self._download(address, is_studio, name)
        if self._cache is not None:
            self._cache.put(key, content)
        return content

    # Where it is

    def _locate(self, uri: str, task_id: int | None) -> tuple[str, bool]:
        """(address, whether it is Label Studio's own and gets the token)."""
        address = browser_url(self._url, task_id, uri)
        if not address:
            raise ImageError(
                f"{_shown(uri)} is no address this backend can fetch: use http(s), an upload, "
                "local files or a cloud storage connected to Label Studio"
            )
        return address, _origin(address) == _origin(self._url)

    def _on_disk(self, uri: str) -> Path | None:
        """The file of a local-files URI below the document root; None: it is to be downloaded."""
        parts = urlsplit(uri)
        if self._local_root is None or not parts.path.endswith(LOCAL_FILES):
            return None
        if parts.scheme and _origin(uri) != _origin(self._url):
            return None
        wanted = parse_qs(parts.query).get("d", [""])[0]
        path = (self._local_root / wanted.lstrip("/")).resolve()
        if not path.is_relative_to(self._local_root):
            raise ImageError(
                f"{_shown(uri)} leads out of LOCAL_FILES_ROOT: correct the task's data"
            )
        return path

    def _read(self, path: Path, name: str) -> bytes:
        try:
            size = path.stat().st_size
            if size > self._max_bytes:
                raise ImageError(_too_large(name, self._max_bytes))
            content = path.read_bytes()
        except OSError as error:
            raise ImageError(
                f"{name} cannot be read below LOCAL_FILES_ROOT ({error.strerror}): is that Label "
                "Studio's LOCAL_FILES_DOCUMENT_ROOT?"
            ) from None
        if not content:
            raise ImageError(f"{name} is an empty file: restore it or delete the task")
        return content

    # Fetching it

    def _download(self, address: str, is_studio: bool, name: str) -> bytes:
        again = Retrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=_pause,
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            return again(self._download_once, address, is_studio, name)
        except _StudioDownError as error:
            raise UnreachableError(str(error)) from None
        except _PassingError as error:
            raise ImageError(str(error)) from None

    def _download_once(self, address: str, is_studio: bool, name: str) -> bytes:
        deadline = time.monotonic() + 10 * self._timeout
        auth = self._auth if is_studio else None
        try:
            with self._http.stream("GET", address, auth=auth) as response:
                _check_status(response, name, is_studio)
                content = self._body(response, name, deadline)
        except httpx.TimeoutException:
            raise _PassingError(
                f"{name} did not come within {self._timeout:g} s: {OUT_OF_REACH}"
            ) from None
        except httpx.TooManyRedirects:
            raise ImageError(f"{name} redirects in circles: correct its address") from None
        except httpx.TransportError as error:
            refused = isinstance(error, httpx.ConnectError)
            if refused and _origin(str(error.request.url)) == _origin(self._url):
                raise _StudioDownError(
                    f"Label Studio does not answer at {self._url} ({one_line(error, 120)}): start "
                    "it, or correct LABEL_STUDIO_URL, and run again; it goes on where it was"
                ) from None
            raise _PassingError(
                f"{name} cannot be fetched ({one_line(error, 120)}): {OUT_OF_REACH}"
            ) from None
        except (httpx.InvalidURL, httpx.DecodingError, ValueError) as error:
            raise ImageError(
                f"{name} cannot be fetched ({one_line(error, 120)}): correct the task's data"
            ) from None
        if not content:
            raise ImageError(f"{name} is empty: restore the file or delete the task")
        return content

    def _body(self, response: httpx.Response, name: str, deadline: float) -> bytes:
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise ImageError(_too_large(name, self._max_bytes))
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > self._max_bytes:
                raise ImageError(_too_large(name, self._max_bytes))
            if time.monotonic() > deadline:
                raise _PassingError(
                    f"{name} did not come within {10 * self._timeout:g} s: {OUT_OF_REACH}"
                )
            chunks.append(chunk)
        return b"".join(chunks)


def _check_status(response: httpx.Response, name: str, is_studio: bool) -> None:
    """Raise unless the response may be an image."""
    status = response.status_code
    if status == 429 or status == 408 or status >= 500:
        pause = response.headers.get("retry-after", "")
        seconds = min(float(pause), MAX_PAUSE_S) if pause.isdigit() else 0.0
        # Label Studio answers so, instead of 404, for an upload it has no record of.
        unknown = is_studio and status == 500
        reason = "the upload is gone; delete the task" if unknown else "try again later"
        raise _PassingError(f"{name} is not given out ({status}): {reason}", seconds)
    if status in (401, 403):
        remedy = (
            "the token's account may not see it, or local file serving is off"
            if is_studio
            else "its server wants credentials: use a cloud storage connected to Label Studio"
        )
        raise ImageError(f"{name} is refused ({status}): {remedy}")
    if status in (404, 410):
        raise ImageError(f"{name} is not there ({status}): restore the file or delete the task")
    if status != 200:
        raise ImageError(f"{name} is not given out ({status}): correct the task's data")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise ImageError(f"{name} is a web page, not an image: is a login needed?")


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: what the server asked for, or 0.5, 1, 2, ..."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.pause_s if isinstance(error, _PassingError) else 0.0
    return asked or min(0.5 * 2.0 ** (state.attempt_number - 1), MAX_PAUSE_S)


def _decoded(uri: str, limit: int) -> bytes:
    """The content of a `data:` URI."""
    head, _, body = uri.partition(",")
    if len(body) > 2 * limit:
        raise ImageError(_too_large("A data: image", limit))
    try:
        if head.endswith(";base64"):
            content = base64.b64decode(unquote(body), validate=True)
        else:
            content = unquote_to_bytes(body)
    except binascii.Error:
        raise ImageError("A data: image is not valid base64: import it anew") from None
    if not content:
        raise ImageError("A data: image is empty: import it anew")
    return content


def _origin(uri: str) -> tuple[str, str, int]:
    parts = urlsplit(uri)
    standard = {"http": 80, "https": 443}
    try:
        port = parts.port
    except ValueError:
        port = -1
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), port or standard.get(scheme, 0)


def _too_large(name: str, limit: int) -> str:
    return f"{name} is larger than {limit / 1e6:g} MB: scale it down or delete the task"


def _shown(uri: str) -> str:
    """`uri` for a message: short, and without its query, which may hold a signature."""
    if uri.startswith("data:"):
        return "A data: image"
    parts = urlsplit(uri)
    if parts.path.endswith(LOCAL_FILES):
        return one_line(f"{parts.path}?{parts.query}", 160)
    host = f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else ""
    return one_line(f"{host}{parts.path}", 160)
