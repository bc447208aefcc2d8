"""A status on a terminal: tables as wide as it allows, refreshed in place for those who watch."""

import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncd.api import v1
from syncd.cli import status_page
from syncd.cli.failure import error_lines
from syncd.cli.sheets import Row, Sheet, Tone
from syncd.cli.status_page import Page
from syncd.errors import SyncdError

_STYLES = {Tone.CALM: "", Tone.GOOD: "green", Tone.MOVING: "cyan", Tone.BAD: "bold red"}
_SYMBOLS = {
    "proved": "\N{CHECK MARK}",
    "loaded": "\N{BLACK CIRCLE}",
    "loading": "\N{HORIZONTAL ELLIPSIS}",
    "served": "\N{WHITE CIRCLE}",
    "stale": "\N{CIRCLE WITH LEFT HALF BLACK}",
    "hosted": "\N{NORTH EAST ARROW}",
    "missing": "\N{EN DASH}",
    "failing": "\N{BALLOT X}",
    "unknown": "?",
}


class Screen:
    """Shows a status, and in its place the next one."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.vertical_overflow = "visible"  # the last one stays, and all of it
        self._live.stop()

    def show(self, found: v1.Status) -> None:
        """What is so now."""
        symbols = self._console.encoding.startswith("utf")
        self._live.update(picture(status_page.page(found, time.time()), symbols=symbols), refresh=True)

    def show_error(self, error: SyncdError) -> None:
        """Nobody knows what is so."""
        self._live.update(Text(error_lines(error), style=_STYLES[Tone.BAD]), refresh=True)


def picture(shown: Page, *, symbols: bool = False) -> RenderableType:
    """``shown`` as tables. ``symbols``: the terminal can show them."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    for row in shown.head:
        head.add_row(*_cells(row))
    return Group(head, *(part for sheet in shown.sheets for part in (Text(""), _table(sheet, symbols=symbols))))


def _table(sheet: Sheet, *, symbols: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in sheet.header:
        table.add_column(Text(title), overflow="fold")
    for row in sheet.rows:
        table.add_row(*_cells(_marked(row) if sheet.marked and symbols else row))
    return table


def _marked(row: Row) -> Row:
    first, *states = row.cells
    return replace(row, cells=(first, *(f"{_SYMBOLS.get(state, ' ')} {state}" for state in states)))


def _cells(row: Row) -> list[Text]:
    tones = row.tones or (row.tone,) * len(row.cells)
    return [Text(cell, style=_STYLES[tone]) for cell, tone in zip(row.cells, tones, strict=True)]
