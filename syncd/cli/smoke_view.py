"""How a smoke test looks while it runs and when it has ended: a table on a terminal, lines elsewhere, or NDJSON."""

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from syncd.api import events
from syncd.cli import smoke_page, status_page, status_table
from syncd.jobs.smoke import Smoke
from syncd.jobs.survey import Survey


class SmokeView(AbstractContextManager["SmokeView"], Protocol):
    """Shows one run while it is entered. ``every``: seconds between two moments."""

    every: float

    def show(self, smoke: Smoke, found: Survey) -> None:
        """What has been so far."""

    def done(self, report: smoke_page.Report) -> None:
        """What came of it."""


def view(*, as_json: bool) -> SmokeView:
    """The one that fits what stdout and stderr are."""
    if as_json:
        return _Ndjson()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Terminal(console)
    return _Lines()


class _Lines:
    """A line every few seconds on stderr, the report on stdout."""

    every = 5.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def show(self, smoke: Smoke, found: Survey) -> None:  # noqa: ARG002 - a table shows it
        sys.stderr.write(smoke_page.line(smoke_page.moment(smoke)) + "\n")
        sys.stderr.flush()

    def done(self, report: smoke_page.Report) -> None:
        sys.stdout.write(status_page.text(smoke_page.page(report)))
        sys.stdout.flush()


class _Ndjson(_Lines):
    """An object a line: ``Moment``s, and last the ``Report``."""

    every = 1.0

    def show(self, smoke: Smoke, found: Survey) -> None:  # noqa: ARG002 - a table shows it
        sys.stdout.write(events.line(smoke_page.moment(smoke)))
        sys.stdout.flush()

    def done(self, report: smoke_page.Report) -> None:
        sys.stdout.write(events.line(report))
        sys.stdout.flush()


class _Terminal(_Lines):
    """The report so far, in its place; it makes room for the last one."""

    every = 0.5

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, smoke: Smoke, found: Survey) -> None:
        now = smoke_page.report(smoke, found, interrupted=False)
        self._live.update(status_table.picture(smoke_page.page(now)), refresh=True)

    def done(self, report: smoke_page.Report) -> None:
        self._live.stop()
        if not sys.stdout.isatty():
            super().done(report)
            return
        Console(highlight=False, markup=False, emoji=False).print(status_table.picture(smoke_page.page(report)))
