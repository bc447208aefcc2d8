"""A status on a terminal: tables as wide as it allows, refreshed in place for those who watch."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncd.api import v1
from syncd.cli import status_page
from syncd.cli.failure import error_lines
from syncd.cli.status_page import Page, Row, Sheet, Tone
from syncd.errors import SyncdError

_STYLES = {Tone.CALM: "", Tone.MOVING: "cyan", Tone.BAD: "bold red"}


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
        self._live.update(picture(status_page.page(found, time.time())), refresh=True)

    def show_error(self, error: SyncdError) -> None:
        """Nobody knows what is so."""
        self._live.update(Text(error_lines(error), style=_STYLES[Tone.BAD]), refresh=True)


def picture(shown: Page) -> RenderableType:
    """``shown`` as tables."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    for row in shown.head:
        head.add_row(*_cells(row))
    return Group(head, *(part for sheet in shown.sheets for part in (Text(""), _table(sheet))))


def _table(sheet: Sheet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in sheet.header:
        table.add_column(Text(title), overflow="fold")
    for row in sheet.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[Text]:
    return [Text(cell, style=_STYLES[row.tone]) for cell in row.cells]
