"""Tables of words, each as loud as it should be; pure. How they look is ``status_table``'s business."""

from dataclasses import dataclass
from enum import Enum

from syncd.text import printable


class Tone(Enum):
    """How loud a line, or a cell, is."""

    CALM = "calm"
    GOOD = "good"
    MOVING = "moving"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: its cells. ``tones``: of each cell, where they differ."""

    cells: tuple[str, ...]
    tone: Tone = Tone.CALM
    tones: tuple[Tone, ...] = ()


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. ``marked``: its cells get a symbol, by their word, where there are colours."""

    header: tuple[str, ...]
    rows: tuple[Row, ...]
    marked: bool = False


def row(tone: Tone, *cells: str) -> Row:
    """A line of escaped cells."""
    return Row(tuple(printable(cell, limit=200) for cell in cells), tone)
