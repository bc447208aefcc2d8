"""Text for people: what comes from outside made safe to show, and sizes as they are read."""

import codecs
import json
import unicodedata

# Found now: later there may be no descriptor left to read the codec by, and that is to be logged, too.
_escaped = codecs.getencoder("unicode_escape")
# Cc controls, Cf formats (bidi marks, zero-width), Cs surrogates, Co private, Cn unassigned, Zl/Zp line separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str, *, limit: int = 500) -> str:
    """``text`` with every unsafe character as a backslash escape, cut at ``limit`` characters."""
    if text.isascii() and text.isprintable():
        shown = text
    else:
        shown = "".join(
            _escaped(character, "surrogatepass")[0].decode("ascii")
            if unicodedata.category(character) in _UNSAFE_CATEGORIES
            else character
            for character in text
        )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def printable_json(text: str) -> str:
    """JSON with every unsafe character as JSON's own escape: the same values, whoever looks at them."""
    if text.isascii() and "\x7f" not in text:
        return text  # what else is unsafe there JSON has to escape anyway
    return "".join(
        json.dumps(character)[1:-1] if unicodedata.category(character) in _UNSAFE_CATEGORIES else character
        for character in text
    )


def size(number: float) -> str:
    """A number of bytes, in decimal units, as ``ollama list`` shows it: ``4.1 GB``, ``274 MB``, ``12 B``."""
    value, unit = float(number), 0
    while unit < len(_UNITS) - 1 and value >= 999.5:  # noqa: PLR2004 - from here on it would round to 1000
        value, unit = value / 1000, unit + 1
    text = f"{value:.1f}" if unit and value < 9.95 else f"{value:.0f}"  # noqa: PLR2004 - below 10 when rounded
    return f"{text} {_UNITS[unit]}"
