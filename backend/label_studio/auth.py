"""Both kinds of Label Studio token, as one httpx authentication.

A legacy token is sent as it is (`Authorization: Token ...`). A personal access token is a JWT
*refresh* token: it is exchanged for access tokens (`Authorization: Bearer ...`) that last five
minutes, are renewed in time and shared by all threads. The token never appears in a message or a
repr.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import httpx

from backend.errors import AccessError, LabelStudioError
from backend.metrics import count_studio_refusal

TokenKind = Literal["personal", "legacy"]

# An access token is renewed this long before it expires, so that it outlasts a slow request.
RENEW_BEFORE_S = 45.0

MAKE_A_TOKEN = (
    "make a personal access token in Label Studio (Account & Settings > Personal Access Token) "
    "and set LABEL_STUDIO_API_KEY to it"
)
LEGACY_IS_OFF = (
    "legacy tokens are off by default since Label Studio 1.17: "
    f"{MAKE_A_TOKEN}, or let an owner switch legacy tokens on (Organization > API Tokens Settings)"
)


def token_kind(api_key: str) -> TokenKind:
    """Which kind `api_key` is: a JWT is a personal access token, anything else a legacy token.

    Raises:
        AccessError: it is empty, cut short, expired, an access token instead of a refresh token, or
            has something in or around it that no token has.
    """
    api_key = api_key.strip()
    if not api_key:
        raise AccessError(f"LABEL_STUDIO_API_KEY is empty: {MAKE_A_TOKEN}")
    _check_characters(api_key)
    claims = _claims(api_key)
    if claims is None:
        return "legacy"
    if api_key.count(".") != 2:
        raise AccessError(
            f"LABEL_STUDIO_API_KEY lacks its signature (Label Studio's list of tokens shows them "
            f"without): {MAKE_A_TOKEN}, copied where it is made"
        )
    if claims.get("token_type") == "access":
        raise AccessError(
            f"LABEL_STUDIO_API_KEY is an access token, dead after five minutes: {MAKE_A_TOKEN}"
        )
    expires = claims.get("exp")
    if isinstance(expires, (int, float)) and expires < time.time():
        raise AccessError(f"LABEL_STUDIO_API_KEY has expired: {MAKE_A_TOKEN}")
    return "personal"


def _check_characters(api_key: str) -> None:
    """Refuse what no HTTP header can hold, before a library quotes it in its complaint.

    Raises:
        AccessError: what is wrong, without the token.
    """
    if api_key[0] in "'\"" or api_key[-1] in "'\"":
        raise AccessError("LABEL_STUDIO_API_KEY has quotes around it: set it without them")
    word, *rest = api_key.split(maxsplit=1)
    if rest and word.lower() in ("token", "bearer"):
        raise AccessError(
            f"LABEL_STUDIO_API_KEY begins with {word!r}, which belongs to the header: set it to "
            "the token alone"
        )
    for place, character in enumerate(api_key, start=1):
        if "!" <= character <= "~":
            continue
        what = _SPACES.get(character) or f"the character U+{ord(character):04X}"
        raise AccessError(
            f"LABEL_STUDIO_API_KEY has {what} at place {place}, which no token has: copy it again, "
            "or " + MAKE_A_TOKEN
        )


_SPACES = {"\n": "a line break", "\r": "a line break", " ": "a space", "\t": "a tab"}


class TokenAuth(httpx.Auth):
    """Puts the right Authorization header on a request to Label Studio. Thread-safe.

    httpx drops that header when a redirect leads to another host.

    Args:
        url: address of Label Studio, without a trailing slash.
        api_key: a token of either kind.

    Raises:
        AccessError: (at once) the token cannot work; (on use) Label Studio refuses to renew it.
        LabelStudioError: (on use) the answer to a renewal makes no sense.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self.kind: TokenKind = token_kind(api_key)
        self._api_key = api_key.strip()
        self._refresh_url = f"{url.rstrip('/')}/api/token/refresh/"
        self._lock = threading.Lock()
        self._access: str | None = None
        self._dies_at = 0.0

    def __repr__(self) -> str:
        return f"TokenAuth(kind={self.kind!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Authorize `request`; get an access token, or a new one after a 401, where needed."""
        if self.kind == "legacy":
            request.headers["Authorization"] = f"Token {self._api_key}"
            yield request
            return
        access = yield from self._renewed(stale=None)
        request.headers["Authorization"] = f"Bearer {access}"
        response = yield request
        if response.status_code == 401:
            # The clocks of the two machines differ, or the server forgot the token.
            access = yield from self._renewed(stale=access)
            request.headers["Authorization"] = f"Bearer {access}"
            yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Not offered: this project talks to Label Studio from threads."""
        raise NotImplementedError("TokenAuth serves synchronous clients only")
        yield request

    def _renewed(self, stale: str | None) -> Generator[httpx.Request, httpx.Response, str]:
        """A valid access token; `stale` is one that was just refused."""
        with self._lock:
            if self._access and self._access != stale and time.monotonic() < self._dies_at:
                return self._access
            response = yield httpx.Request(
                "POST", self._refresh_url, json={"refresh": self._api_key}
            )
            response.read()
            self._access = _access_of(response)
            self._dies_at = time.monotonic() + _lifetime_s(self._access)
            return self._access


def _access_of(response: httpx.Response) -> str:
    if not response.is_success:
        count_studio_refusal(response.status_code)
    if response.status_code in (400, 401, 403):
        raise AccessError(
            f"Label Studio refuses the personal access token (revoked, or of another server): "
            f"{MAKE_A_TOKEN}"
        )
    try:
        access = response.json()["access"] if response.is_success else None
    except (ValueError, KeyError, TypeError):
        access = None
    if not isinstance(access, str):
        raise LabelStudioError(
            f"{response.request.url} answered {response.status_code} without an access token: "
            "is LABEL_STUDIO_URL the address of Label Studio?"
        )
    return access


def _lifetime_s(access: str) -> float:
    """Seconds to use an access token for, by its own two dates: no two clocks are compared."""
    claims = _claims(access) or {}
    try:
        lifetime = float(claims["exp"]) - float(claims["iat"])
    except (KeyError, TypeError, ValueError):
        lifetime = 0.0
    return max(lifetime - RENEW_BEFORE_S, lifetime / 2)


def _claims(token: str) -> dict[str, Any] | None:
    """The payload of a JWT, unverified (only the server can verify it); None: it is no JWT."""
    parts = token.strip().split(".")
    if len(parts) not in (2, 3):
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return payload if isinstance(payload, dict) else None
