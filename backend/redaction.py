"""A net under the log: what looks like a secret is struck out of every line.

The code that makes a message keeps secrets out of it; this is for the message that was forgotten,
or that a library made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

STRUCK = "[redacted]"

# Shorter values are words as well: striking them out would spoil the log and tell the secret.
_LEAST_LENGTH = 6

# What names a secret, in settings, queries, headers and JSON.
_NAMES = (
    r"[\w-]{0,40}(?:password|passwd|secret|api[_-]?key|access[_-]?key(?:[_-]?id)?|auth[_-]?token"
    r"|access[_-]?token|refresh[_-]?token|session[_-]?id|csrf[_-]?token|_PASS)"
)
# Query parameters of presigned addresses (S3, Google, Azure) and of those who pass tokens there.
_PARAMETERS = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)"
    r"|awsaccesskeyid|googleaccessid|signature|sig|se|sp|skoid|token|key|code|auth"
)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Headers, in any writing: Authorization: Bearer x, {'authorization': 'Basic x'}.
        (
            r"((?:proxy-)?authorization['\"]?\s*[:=,]\s*(?:b?['\"])?)(?:(?:bearer|token|basic)\s+)?"
            r"[^\s'\",;}]+",
            rf"\1{STRUCK}",
        ),
        (r"(\b(?:set-)?cookie['\"]?\s*[:=]\s*(?:b?['\"])?)[^'\"\n}]+", rf"\1{STRUCK}"),
        (r"\b(bearer|token|basic)\s+(?=[\w.~+/-]*[\d])[\w.~+/-]{12,}=*", rf"\1 {STRUCK}"),
        # JSON web tokens: personal access tokens of Label Studio, and what they buy.
        (r"\beyJ[\w-]{6,}\.[\w-]+(?:\.[\w-]*)?", STRUCK),
        # Keys of this API: the first part names the key, the second opens.
        (r"\b(hardest_[0-9a-f]{12}_)[0-9a-f]+", rf"\1{STRUCK}"),
        # User and password of an address.
        (r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/?#'\"@]+(?:@[^\s/?#'\"@]+)*@", rf"\1{STRUCK}@"),
        (rf"([?&;](?:{_PARAMETERS})=)[^\s&;'\"#]+", rf"\1{STRUCK}"),
        # NAME=value, and "name": "value". Not "secret: word", which is a sentence.
        (rf"(\b{_NAMES}\s*=\s*['\"]?)[^\s&;,'\"}})]+", rf"\1{STRUCK}"),
        (rf"(['\"]{_NAMES}['\"]\s*:\s*['\"])[^'\"]+", rf"\1{STRUCK}"),
    )
)

# Words and paths, which most values are: no pattern above can match in them.
_HARMLESS = re.compile(r"(?!.*(?:eyJ|hardest_))[\w./{}-]*", re.IGNORECASE)


class Redactor:
    """Strikes secrets out of texts.

    Args:
        secrets: values that are known to be secret, struck out wherever they stand.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be the beginning of another.
        known = sorted({s for s in secrets if len(s) >= _LEAST_LENGTH}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """`text` without what is, or looks like, a secret.

        >>> Redactor().text("GET https://me:pa55@host/a?X-Amz-Signature=abc&b=1")
        'GET https://[redacted]@host/a?X-Amz-Signature=[redacted]&b=1'
        """
        if self._known is not None:
            text = self._known.sub(STRUCK, text)
        if _HARMLESS.fullmatch(text):
            return text
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def field(self, name: str, value: Any) -> Any:
        """A named value: all of it is struck out where its name says that it is a secret."""
        return STRUCK if _SECRET_NAME.fullmatch(name) else self._value(value)

    def _value(self, value: Any) -> Any:
        """All texts in dictionaries and lists; what is neither number nor text becomes text."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {str(name): self.field(str(name), each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(each) for each in value]
        return self.text(str(value))


_SECRET_NAME = re.compile(rf"{_NAMES}|(?:proxy-)?authorization|(?:set-)?cookie", re.IGNORECASE)
