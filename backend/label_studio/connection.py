"""A connection to one Label Studio: the token, the SDK, retries, and errors in our own words.

Reads are retried; whatever is not safe to repeat is sent once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import httpx

# `LabelStudio` itself imports pandas and more, for clients that nothing here asks for.
from label_studio_sdk.base_client import LabelStudioBase
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from backend.errors import SettingsError
from backend.label_studio.auth import TokenAuth
from backend.label_studio.transport import foreign, retry_after, speaking_to
from backend.metrics import count_studio_error
from backend.settings import Settings

_LONGEST_PAUSE_S = 60.0
_exponential = wait_random_exponential(multiplier=0.5, max=8.0)

Self = TypeVar("Self", bound="Connection")
T = TypeVar("T")


class Connection:
    """One account's connection to one Label Studio. Thread-safe.

    Args:
        url: its address, with the scheme.
        api_key: a personal access token, or a legacy token.
        timeout: seconds to wait for an answer (imports and deletions wait longer).
        retries: how often a failed read is tried again.
        transport: where requests go instead of the network; for tests.
        public_url: the address at which people open it; "": `url`.

    Raises:
        SettingsError: `url` is no web address.
        AccessError: the token cannot work.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        public_url: str = "",
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"LABEL_STUDIO_URL must begin with http:// or https://, not {url}")
        self.url = url.rstrip("/")
        self.public_url = public_url or self.url
        self.auth = TokenAuth(self.url, api_key)
        self._retries = retries
        # A redirect would turn a POST into a GET: report it instead of following it.
        self._http = httpx.Client(
            auth=self.auth, timeout=timeout, transport=transport, follow_redirects=False
        )
        # The SDK would refresh personal tokens itself, but images need the same token, and the
        # SDK's own refresh loses the path of an address such as https://host/label-studio.
        self._sdk = LabelStudioBase(
            base_url=self.url,
            api_key="replaced-by-TokenAuth",
            httpx_client=self._http,
            max_retries=retries,
        )

    @classmethod
    def from_settings(
        cls: type[Self], settings: Settings, *, timeout: float = 30.0, retries: int = 2
    ) -> Self:
        """The Label Studio that the settings name."""
        key = settings.label_studio_api_key.get_secret_value()
        return cls(
            settings.label_studio_url,
            key,
            timeout=timeout,
            retries=retries,
            public_url=settings.label_studio_public_url,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.auth.kind} token)"

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _speaking(self, doing: str, project_id: int | None = None) -> Any:
        return speaking_to(self.url, doing, kind=self.auth.kind, project_id=project_id)

    def _get(
        self,
        path: str,
        doing: str,
        project_id: int | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        read: Callable[[Any], T],
    ) -> T:
        """GET what the SDK has no call for, or wraps in heavy models; retried like its reads.

        `read` takes what is wanted out of the answer's JSON: where it cannot, the answer is not
        Label Studio's.
        """
        with self._speaking(doing, project_id):
            answer = self._read(path, params)
            try:
                return read(answer.json())
            except (AttributeError, LookupError, TypeError, ValueError):
                count_studio_error("other")
                raise foreign(self.url, doing) from None

    def _read(self, path: str, params: Mapping[str, Any] | None = None) -> httpx.Response:
        again = Retrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=_pause,
            retry=retry_if_exception(_is_passing),
            reraise=True,
        )
        return again(self._get_once, f"{self.url}{path}", params)

    def _get_once(self, url: str, params: Mapping[str, Any] | None) -> httpx.Response:
        response = self._http.get(url, params=params)
        response.raise_for_status()
        return response


def _is_passing(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    # No retry after a timeout: the wait would be as long again.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ReadTimeout)


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: as long as Label Studio asks for, up to a minute."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, httpx.HTTPStatusError):
        asked = retry_after(error.response, _LONGEST_PAUSE_S)
        if asked is not None:
            return asked
    return _exponential(state)
