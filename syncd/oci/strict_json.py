"""JSON from outside: duplicate keys refused, depth, size and number of objects bounded before anything is built."""

import json
import re
from typing import Any

from syncd.errors import SyncdError

MAX_DEPTH = 32
MAX_OBJECTS = 10_000

# A string that does not end reaches to the end of the text: it is looked at once, not once for each quote in it.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class StrictJSONError(SyncdError):
    """Text that is no JSON, or JSON that nobody sends in good faith."""


def parse(raw: bytes) -> Any:  # noqa: ANN401 - JSON is any of its types; the callers narrow it
    """The value of ``raw`` (UTF-8). Raise ``StrictJSONError`` with a reason that fits behind a "because"."""
    _bound(raw)
    try:
        found = _DECODER.decode(raw.decode("utf-8"))
        if b"\\u" in raw and _SURROGATE.search(raw):
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a pair is no text: nobody could tell of it
    except StrictJSONError:
        raise
    except (ValueError, RecursionError) as error:
        raise StrictJSONError(f"it is no JSON ({error})") from error
    return found


def refuse_duplicates(raw: bytes) -> None:
    """Raise ``StrictJSONError`` where an object has a key twice. ``raw``: JSON that has been read, and found good."""
    _DECODER.decode(raw.decode("utf-8"))


def _bound(raw: bytes) -> None:
    objects = raw.count(b"{")
    if objects + raw.count(b"[") <= MAX_DEPTH:
        return  # fewer brackets than levels allowed: the usual case, without a scan
    if objects > MAX_OBJECTS:
        raise StrictJSONError(f"it holds {objects} objects, more than {MAX_OBJECTS}")
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(raw):
        match raw[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > MAX_DEPTH:
                    raise StrictJSONError(f"it is nested deeper than {MAX_DEPTH} levels")
            case 0x5D | 0x7D:
                depth -= 1


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJSONError(f"it has the key {key[:100]!r} twice")
            seen.add(key)
    return parsed


def _refuse_constant(text: str) -> None:
    raise StrictJSONError(f"it is no JSON ({text} is not a number)")


# One for all: to make one takes as long as to read a manifest with it. It keeps nothing between two texts.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
