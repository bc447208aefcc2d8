"""Markdown, as these pages use it."""

from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """A code span."""
    return f"`{text}`"


def cell(text: str) -> str:
    """A docstring's text as Markdown that may stand in a table."""
    return text.replace("``", "`").replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with a newline at its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("|" + "".join(f" {text} |" if text else " |" for text in one) + "\n" for one in lines)
