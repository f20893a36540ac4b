"""How calls to Label Studio fail, in this project's words.

One place turns what httpx and the SDK raise into `UnreachableError`, `AccessError` and
`RefusedError`, each one line with the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from label_studio_sdk.core.api_error import ApiError

from backend.errors import AccessError, LabelStudioError, RefusedError, UnreachableError
from backend.label_studio.auth import LEGACY_IS_OFF, MAKE_A_TOKEN, TokenKind
from backend.metrics import count_studio_error, count_studio_refusal

DETAIL_LIMIT = 240


@contextmanager
def speaking_to(
    url: str, doing: str, *, kind: TokenKind, project_id: int | None = None
) -> Iterator[None]:
    """Translate every failure of the calls in the block.

    Args:
        url: address of Label Studio, for the message.
        doing: what was tried, as in "listing tasks".
        kind: the kind of token in use.
        project_id: the project the call is about; None: none in particular.

    Raises:
        UnreachableError: no connection, no answer in time, or an answer cut short.
        AccessError: 401 or 403.
        RefusedError: any other error status.
        LabelStudioError: an answer that is not Label Studio's.
    """
    try:
        yield
    except ApiError as error:
        raise _from_status(
            url, doing, kind, project_id, error.status_code or 0, error.body, error.headers or {}
        ) from None
    except httpx.HTTPStatusError as error:
        raise _from_status(
            *(url, doing, kind, project_id, error.response.status_code),
            _body(error.response),
            error.response.headers,
        ) from None
    except (json.JSONDecodeError, httpx.DecodingError):
        count_studio_error("other")
        raise foreign(url, doing) from None
    except httpx.TimeoutException:
        count_studio_error("timeout")
        raise UnreachableError(
            f"Label Studio at {url} did not answer in time ({doing}): it is overloaded, or a proxy "
            "in between swallows the request; try again"
        ) from None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        count_studio_error("unreachable")
        raise UnreachableError(_no_connection(url, error)) from None


def _no_connection(url: str, error: Exception) -> str:
    """Why there is no connection, and what to do, in one line."""
    if isinstance(error, (httpx.LocalProtocolError, httpx.InvalidURL)):
        # Its text quotes headers, and with them the token.
        return (
            f"A request to Label Studio at {url} cannot be sent: LABEL_STUDIO_URL or "
            "LABEL_STUDIO_API_KEY has a character that HTTP does not allow"
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            f"Label Studio at {url} shows a certificate that this machine does not trust: set "
            "SSL_CERT_FILE to a file with the certificate of the authority that issued it"
        )
    proxy = _proxy_of(url)
    if proxy is not None:
        host = urlsplit(url).hostname
        return (
            f"Label Studio at {url} is not reached through the proxy of {proxy} "
            f"({type(error).__name__}): add {host} to NO_PROXY, or correct {proxy}"
        )
    return (
        f"No Label Studio answers at {url} ({one_line(error)}): start it, or correct "
        "LABEL_STUDIO_URL"
    )


def _proxy_of(url: str) -> str | None:
    """The variable that sends requests to `url` through a proxy; None: none does."""
    parts = urlsplit(url)
    proxies = getproxies()
    if proxy_bypass(parts.hostname or ""):
        return None
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            return f"{scheme.upper()}_PROXY"
    return None


def one_line(text: object, limit: int = DETAIL_LIMIT) -> str:
    """`text` on one line, at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _from_status(
    url: str,
    doing: str,
    kind: TokenKind,
    project_id: int | None,
    status: int,
    body: Any,
    headers: Any,
) -> LabelStudioError:
    count_studio_refusal(status)
    if status == 401:
        remedy = LEGACY_IS_OFF if kind == "legacy" else f"it was revoked: {MAKE_A_TOKEN}"
        return AccessError(f"Label Studio at {url} does not accept the token ({doing}): {remedy}")
    if status == 403:
        return AccessError(
            f"The token's account may not do this in Label Studio ({doing}): use the token of an "
            "owner or administrator, or give the account that right"
        )
    if status == 404 and project_id is not None:
        return RefusedError(
            f"Project {project_id} is not in Label Studio at {url}, or the token's account cannot "
            "see it: check the number in the project's address",
            status,
        )
    if 300 <= status < 400:
        target = one_line(dict(headers).get("location", "elsewhere"))
        return LabelStudioError(
            f"Label Studio at {url} redirects to {target}: set LABEL_STUDIO_URL to the address "
            "that answers without a redirect"
        )
    if 200 <= status < 300:
        return foreign(url, doing)
    detail = _detail(body)
    if status >= 500 or status == 429:
        why = "is asked too often" if status == 429 else "failed"
        return RefusedError(
            f"Label Studio {why} at {doing} ({status}; {detail}): see its log, and try again",
            status,
        )
    return RefusedError(
        f"Label Studio refused {doing} ({status}; {detail}): see its log for the cause", status
    )


def foreign(url: str, doing: str) -> LabelStudioError:
    """For an answer that Label Studio does not give."""
    return LabelStudioError(
        f"{url} answered something that is not Label Studio's ({doing}): correct LABEL_STUDIO_URL"
    )


def retry_after(response: httpx.Response, most: float) -> float | None:
    """The seconds, at most `most`, that an answer asks to wait; None: it asks for none."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), most) if asked.isdecimal() else None


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text


def _detail(body: Any) -> str:
    """The most telling words of an error answer."""
    if isinstance(body, dict):
        found = body.get("validation_errors") or body.get("detail") or body
        while isinstance(found, (dict, list)) and found:
            found = next(iter(found.values())) if isinstance(found, dict) else found[0]
        return one_line(found)
    return one_line(body) if body else "no reason given"
