"""Foreign text as it may be shown: file names, titles, addresses and messages of others."""

from __future__ import annotations


def visible(text: str) -> str:
    """`text` on one line, with everything that is not printed written as in source.

    Line ends, control characters (ESC begins the commands of a terminal) and characters that turn
    the direction of writing do nothing then.

    >>> visible("a\\x1b[31mb\\u202ec")
    'a\\\\x1b[31mb\\\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
