"""Fetching the bytes of an image from wherever a task's URI points.

    /data/upload/..., /data/local-files/?d=...    Label Studio itself, with the token
    s3://, gs://, azure-blob://                   Label Studio's resolver of the task (a redirect)
    http://, https://                             as they are; the token only to Label Studio's host
    data:                                         decoded

Bytes come as stored: turning a photograph upright (EXIF) is the decoder's work.
"""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

import httpx

from backend.addresses import AllowedHosts
from backend.errors import ImageError
from backend.images.cache import ImageCache
from backend.images.http import Downloads, too_large
from backend.images.ssrf_guard import origin
from backend.label_studio.auth import TokenAuth
from backend.label_studio.client import Studio
from backend.label_studio.records import TaskRef
from backend.label_studio.transport import one_line
from backend.metrics import count_look_up
from backend.settings import Settings

CLOUD_SCHEMES = ("s3", "gs", "azure-blob", "azure_blob", "redis", "gcs", "azure")
LOCAL_FILES = "/data/local-files/"
MAX_IMAGE_BYTES = 256_000_000
# Paths of Label Studio's own files, whatever a proxy puts before them.
_OWN_FILES = ("/data/upload/", LOCAL_FILES, "/storage-data/")
MALFORMED = "A task's image has a malformed address: correct the task's data"


def drop_cached(cache: ImageCache, studio_url: str, uri: str) -> None:
    """Keep the image behind `uri` no longer, whether it is Label Studio's own or not."""
    for studio in ("", studio_url.rstrip("/")):
        cache.drop(_key(uri.strip(), studio))


def _key(uri: str, studio_url: str) -> str:
    # One cache may serve several Label Studios, whose uploads have like paths.
    return f"{studio_url} {uri}" if studio_url else uri


def browser_url(url: str, task_id: int | None, uri: str) -> str:
    """Where a user who is logged in to Label Studio finds an image.

    Args:
        url: address of Label Studio.
        task_id: the task; cloud URIs are resolved through it.
        uri: as in the task's data.

    Returns:
        An absolute address; "" for a URI that has none.

    >>> browser_url("https://host/studio", 7, "/data/upload/1/a.jpg")
    'https://host/studio/data/upload/1/a.jpg'
    >>> browser_url("https://host", 7, "/studio/data/upload/1/a.jpg")
    'https://host/data/upload/1/a.jpg'
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
        path = uri.partition("?")[0]
        place = max(path.find(own) for own in _OWN_FILES)
        if place > 0:
            return f"{base}{uri[place:]}"
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


class ImageSource:
    """Where images come from. Safe for several threads, which share its connections.

    Args:
        url: address of Label Studio; only its scheme, host and port ever see the token.
        auth: the token, as in `Studio.auth`.
        cache: where fetched images are kept; None keeps none.
        local_files_root: Label Studio's document root, if it is visible here: local files are then
            read from disk. "" reads them over HTTP.
        allowed_hosts: setting ALLOWED_IMAGE_HOSTS: private hosts that images may come from.
        public_url: the address at which people open Label Studio; what is under it is fetched from
            `url`. "": they open `url`.
        timeout: seconds to wait for the next bytes; ten times that for a whole image.
        retries: how often a failure that may pass is tried again.
        max_bytes: a larger image is refused while it is read.
        transport: where requests go instead of the network; for tests.

    Raises:
        ValueError: `allowed_hosts` is malformed.
    """

    def __init__(
        self,
        url: str,
        auth: TokenAuth | None,
        *,
        cache: ImageCache | None = None,
        local_files_root: str = "",
        allowed_hosts: str = "",
        public_url: str = "",
        timeout: float = 30.0,
        retries: int = 3,
        max_bytes: int = MAX_IMAGE_BYTES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._public_url = public_url.rstrip("/")
        self._cache = cache
        self._local_root = Path(local_files_root).resolve() if local_files_root else None
        self._max_bytes = max_bytes
        self._downloads = Downloads(
            self._url,
            auth,
            allowed=AllowedHosts.parse(allowed_hosts),
            timeout=timeout,
            retries=retries,
            max_bytes=max_bytes,
            transport=transport,
        )

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        studio: Studio | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
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
            allowed_hosts=settings.allowed_image_hosts,
            public_url=settings.label_studio_public_url,
            timeout=timeout,
            retries=retries,
        )

    def close(self) -> None:
        """Close the connections."""
        self._downloads.close()

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
        if uri.startswith("data:"):
            return _decoded(uri, self._max_bytes)
        name = _shown(uri)
        path = self._on_disk(uri)
        if path is not None:
            return self._read(path, name)
        address, is_studio = self._locate(uri, task_id)
        key = _key(uri, self._url if is_studio else "")
        kept = self._cache.get(key) if self._cache is not None else None
        count_look_up(hit=kept is not None)
        if kept is not None:
            return kept
        content = self._downloads.fetch(address, name)
        if self._cache is not None:
            self._cache.put(key, content)
        return content

    # Where it is

    def _locate(self, uri: str, task_id: int | None) -> tuple[str, bool]:
        """(address, whether it is Label Studio's own)."""
        address = browser_url(self._url, task_id, self._at_home(uri))
        if not address:
            raise ImageError(
                f"{_shown(uri)} is no address this backend can fetch: use http(s), an upload, "
                "local files or a cloud storage connected to Label Studio"
            )
        try:
            return address, self._downloads.is_studio(address)
        except httpx.InvalidURL:
            raise ImageError(MALFORMED) from None

    def _at_home(self, uri: str) -> str:
        """A public address of Label Studio as a path of it; any other URI as it is."""
        try:
            if not self._public_url or origin(uri) != origin(self._public_url):
                return uri
            parts, prefix = urlsplit(uri), urlsplit(self._public_url).path
        except (httpx.InvalidURL, ValueError):
            return uri
        if not parts.path.startswith(f"{prefix}/"):
            return uri
        query = f"?{parts.query}" if parts.query else ""
        return parts.path.removeprefix(prefix) + query

    def _on_disk(self, uri: str) -> Path | None:
        """The file of a local-files URI below the document root; None: it is to be downloaded."""
        parts = urlsplit(uri)
        if self._local_root is None or not parts.path.endswith(LOCAL_FILES):
            return None
        if parts.scheme and not self._locate(uri, None)[1]:
            return None
        wanted = parse_qs(parts.query).get("d", [""])[0]
        try:
            path = (self._local_root / wanted.lstrip("/")).resolve()
        except (OSError, ValueError, RuntimeError):  # links in circles, NUL
            raise ImageError(MALFORMED) from None
        if not path.is_relative_to(self._local_root):
            raise ImageError(
                f"{_shown(uri)} leads out of LOCAL_FILES_ROOT: correct the task's data"
            )
        return path

    def _read(self, path: Path, name: str) -> bytes:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
                raise ImageError(f"{name} is no file: correct the task's data")
            with path.open("rb") as file:
                content = file.read(self._max_bytes + 1)
        except OSError as error:
            raise ImageError(
                f"{name} cannot be read below LOCAL_FILES_ROOT ({error.strerror}): is that Label "
                "Studio's LOCAL_FILES_DOCUMENT_ROOT?"
            ) from None
        if len(content) > self._max_bytes:
            raise ImageError(too_large(name, self._max_bytes))
        if not content:
            raise ImageError(f"{name} is an empty file: restore it or delete the task")
        return content


def _decoded(uri: str, limit: int) -> bytes:
    """The content of a `data:` URI."""
    head, _, body = uri.partition(",")
    if len(body) > 2 * limit:
        raise ImageError(too_large("A data: image", limit))
    try:
        if head.endswith(";base64"):
            content = base64.b64decode(unquote(body), validate=True)
        else:
            content = unquote_to_bytes(body)
    except ValueError:
        raise ImageError("A data: image is not valid base64: import it again") from None
    if not content:
        raise ImageError("A data: image is empty: import it again")
    return content


def _shown(uri: str) -> str:
    """`uri` for a message: short, and without its user, password, and query with a signature.

    Raises:
        ImageError: it is no address at all.
    """
    try:
        uri.encode()  # half a character can neither be sent nor shown
        parts = urlsplit(uri)
        host = f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else ""
    except ValueError:
        raise ImageError(MALFORMED) from None
    wanted = parse_qs(parts.query).get("d", [""])[0] if parts.path.endswith(LOCAL_FILES) else ""
    return one_line(f"{host}{parts.path}{f'?d={wanted}' if wanted else ''}", 160)
