"""The bytes behind a web address: no more than so many, no later than then, and from nowhere else.

The token goes to Label Studio's files only: not to another server that it redirects to, and not to
its API, where reading may change something (`/api/projects/ID/next` locks a task).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from backend.addresses import AllowedHosts
from backend.errors import ImageError, UnreachableError
from backend.images.ssrf_guard import (
    CheckedTransport,
    PrivateHostError,
    ending_at,
    origin,
)
from backend.label_studio.auth import TokenAuth
from backend.label_studio.transport import one_line, retry_after
from backend.metrics import count_studio_error

MAX_PAUSE_S = 20.0
# Label Studio's resolver of cloud storage is one; a bucket of another region a second.
MAX_REDIRECTS = 5
# A whole download, tries included, may take so many times what the next bytes may take.
WHOLE = 10
OUT_OF_REACH = "see that this machine reaches its server"
_FILES = ("/data/", "/tasks/", "/projects/", "/storage-data/")
_REDIRECTS = (301, 302, 303, 307, 308)


class _PassingError(Exception):
    """A failure that may pass: worth another try. The message is what an ImageError would say."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class _StudioDownError(_PassingError):
    """Label Studio itself is not there: not this image's fault."""


class Downloads:
    """Fetches images over HTTP. Safe for several threads, which share its connections.

    Args:
        url: address of Label Studio, without a trailing slash.
        auth: its token; only its scheme, host and port ever see it.
        allowed: which private hosts may be fetched from; Label Studio always may.
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
        allowed: AllowedHosts,
        timeout: float,
        retries: int,
        max_bytes: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._auth = auth
        self._timeout = timeout
        self._retries = retries
        self._max_bytes = max_bytes
        self._http = httpx.Client(
            timeout=timeout,
            transport=transport or CheckedTransport(url, allowed),
            # What is not packed cannot unpack to more than was counted.
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def is_studio(self, address: str) -> bool:
        """Whether `address` has Label Studio's scheme, host and port."""
        return origin(address) == origin(self._url)

    def fetch(self, address: str, name: str) -> bytes:
        """The bytes behind an http(s) address; `name` is what messages call it.

        Raises:
            ImageError: one line on why these bytes cannot be had. Other images may be.
            AccessError: the token is dead.
            UnreachableError: Label Studio is down.
        """
        deadline = time.monotonic() + WHOLE * self._timeout
        again = Retrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=_pause,
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            with ending_at(deadline):
                return again(self._fetch_once, address, name, deadline)
        except _StudioDownError as error:
            count_studio_error("unreachable")
            raise UnreachableError(str(error)) from None
        except _PassingError as error:
            raise ImageError(str(error)) from None

    def _fetch_once(self, address: str, name: str, deadline: float) -> bytes:
        with self._failures(name, deadline), self._answer(address, name) as response:
            _check_status(response, name, self.is_studio(str(response.request.url)))
            content = self._body(response, name, deadline)
        if not content:
            raise ImageError(f"{name} is empty: restore the file or delete the task")
        return content

    @contextmanager
    def _answer(self, address: str, name: str) -> Iterator[httpx.Response]:
        """The answer at the end of the redirects. Each of these is a new request, made by us."""
        at_home = True
        for _ in range(MAX_REDIRECTS + 1):
            if httpx.URL(address).scheme not in ("http", "https"):
                raise ImageError(
                    f"{name} redirects to an address that is not http or https: correct its address"
                )
            at_home = at_home and self.is_studio(address)
            auth = self._auth if at_home and self._is_file(address) else None
            with self._http.stream("GET", address, auth=auth) as response:
                location = response.headers.get("location")
                if location is None or response.status_code not in _REDIRECTS:
                    yield response
                    return
                address = str(response.request.url.join(location))
                if response.headers.get("content-length") == "0":
                    response.read()  # so that the connection serves the next image too
        raise ImageError(
            f"{name} redirects more than {MAX_REDIRECTS} times, or in circles: correct its address"
        )

    def _is_file(self, address: str) -> bool:
        """Whether an address of Label Studio is that of a file."""
        path = unquote(httpx.URL(address).raw_path.decode("ascii").partition("?")[0])
        prefix = unquote(httpx.URL(self._url).path).rstrip("/")
        return path.removeprefix(prefix).startswith(_FILES) and "/../" not in path

    @contextmanager
    def _failures(self, name: str, deadline: float) -> Iterator[None]:
        """What httpx raises, in our words. Its own may hold an address with its signature."""
        try:
            yield
        except PrivateHostError as error:
            raise ImageError(
                f"{name} is not fetched: {error.host} has a private or reserved address; if images "
                f"are meant to come from there, add {error.host} to ALLOWED_IMAGE_HOSTS"
            ) from None
        except httpx.TimeoutException:
            raise self._too_late(name, deadline) from None
        except httpx.ConnectError as error:
            reason = one_line(error, 120)
            if self.is_studio(str(error.request.url)):
                raise _StudioDownError(
                    f"Label Studio does not answer at {self._url} ({reason}): start it, or correct "
                    "LABEL_STUDIO_URL, and run again; it goes on where it was"
                ) from None
            raise _PassingError(f"{name} cannot be fetched ({reason}): {OUT_OF_REACH}") from None
        except httpx.TransportError:
            raise _PassingError(
                f"{name} cannot be fetched (the answer breaks off or is malformed): {OUT_OF_REACH}"
            ) from None
        except httpx.DecodingError:
            raise ImageError(f"{name} is damaged (its gzip): restore the file") from None
        except (httpx.InvalidURL, ValueError):
            raise ImageError(
                f"{name} is, or redirects to, a malformed address: correct the task's data"
            ) from None

    def _too_late(self, name: str, deadline: float) -> Exception:
        if time.monotonic() < deadline:
            return _PassingError(f"{name} did not come within {self._timeout:g} s: {OUT_OF_REACH}")
        return ImageError(
            f"{name} did not come whole within {WHOLE * self._timeout:g} s: {OUT_OF_REACH}"
        )

    def _body(self, response: httpx.Response, name: str, deadline: float) -> bytes:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise ImageError(too_large(name, self._max_bytes))
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "", "gzip"):
            raise ImageError(f"{name} comes packed ({one_line(packing, 20)}): serve it as it is")
        chunks: list[bytes] = []
        size = 0
        if packing == "gzip":
            coming = _unpacked(response.iter_raw(), self._max_bytes)
        else:
            coming = response.iter_bytes()
        for chunk in coming:
            size += len(chunk)
            if size > self._max_bytes:
                raise ImageError(too_large(name, self._max_bytes))
            if time.monotonic() > deadline:
                raise self._too_late(name, deadline)
            chunks.append(chunk)
        return b"".join(chunks)


def too_large(name: str, limit: int) -> str:
    """The line for an image of more than `limit` bytes."""
    return f"{name} is larger than {limit / 1e6:g} MB: scale it down or delete the task"


def _unpacked(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """gzip undone, each chunk to at most one byte more than `limit`."""
    unpack = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            yield unpack.decompress(chunk, limit + 1)
    except zlib.error as error:
        raise httpx.DecodingError(str(error)) from error


def _check_status(response: httpx.Response, name: str, is_studio: bool) -> None:
    """Raise unless the response may be an image."""
    status = response.status_code
    if status == 429 or status == 408 or status >= 500:
        seconds = retry_after(response, MAX_PAUSE_S) or 0.0
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
