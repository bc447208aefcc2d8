"""Text from outside, made safe to show: no control characters, no escape sequences, no bidirectional marks."""

import unicodedata

# Cc controls, Cf formats (bidi marks, zero-width), Cs surrogates, Co private, Cn unassigned, Zl/Zp line separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, *, limit: int = 500) -> str:
    """``text`` with every unsafe character as a backslash escape, cut at ``limit`` characters."""
    if text.isascii() and text.isprintable():
        shown = text
    else:
        shown = "".join(
            character.encode("unicode_escape", "surrogatepass").decode("ascii")
            if unicodedata.category(character) in _UNSAFE_CATEGORIES
            else character
            for character in text
        )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
