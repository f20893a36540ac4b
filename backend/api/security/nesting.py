"""How deep a JSON body is nested, found without recursion."""

from __future__ import annotations

import json

# As deep as pydantic's own parser goes. What Label Studio sends is about 10 deep.
MAX_NESTING = 200

_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_PART_BYTES = 1 << 16
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def nested_too_deep(body: bytes) -> bool:
    """Whether arrays and objects are nested more than `MAX_NESTING` deep.

    Python's JSON parser recurses. Where the garbage collector runs near the recursion limit,
    finalizers of other objects fail with a RecursionError, so such bodies must not reach it.

    >>> nested_too_deep(b"[" * 300), nested_too_deep(b"[]" * 300), nested_too_deep(b'"[[["' * 300)
    (True, False, False)
    """
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return False
    encoding = json.detect_encoding(body)
    if encoding not in ("utf-8", "utf-8-sig"):
        try:
            body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # nor can the parser read it
            return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side are an empty string, or two strings that may as well be one.
    short = unescaped.translate(None, _OTHERS).replace(b'""', b"")
    depth, in_string = 0, False
    # In parts: split as a whole, what is all quotes would take up many times its size.
    for start in range(0, len(short), _PART_BYTES):
        pieces = short[start : start + _PART_BYTES].split(b'"')
        brackets = b"".join(pieces[in_string::2])
        in_string ^= len(pieces) % 2 == 0
        for step in map(_STEPS.__getitem__, brackets):
            depth += step
            if depth > MAX_NESTING:
                return True
    return False
