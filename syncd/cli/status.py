"""``syncd status``."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import click

from syncd.aio import in_thread
from syncd.api import events, v1
from syncd.cli import (
    here,  # noqa: F401 - whoever watches may need the other place later, when root has become the store's owner
    place,
    running,
    status_page,
    there,  # noqa: F401 - likewise
)
from syncd.cli.failure import error_lines
from syncd.cli.options import as_json, examples, shared
from syncd.cli.session import Session
from syncd.errors import ExitCode, SyncdError
from syncd.text import printable

_EVERY = 1.0  # seconds between two looks


@click.command(epilog=examples("syncd status", "syncd status --watch", "syncd status --check"))
@click.option("--watch", is_flag=True, help="Look again every second, until interrupted.")
@click.option(
    "--check",
    is_flag=True,
    help="One line; exit code 0 if a daemon answers and nothing fails, 6 if a blob is damaged, else 1.",
)
@as_json
@shared
@click.pass_context
def status(context: click.Context, *, watch: bool, check: bool, as_json: bool) -> int:
    """Show what the daemon is at: each model that the settings want, the store, the jobs.

    Without a daemon: what the store and the settings alone can say.
    """
    if watch and check:
        raise click.UsageError("--check looks once: leave out --watch", context)

    def look() -> v1.Status:
        return place.of(Session.begin(context, quiet=check or watch, lenient=True)).status()

    if check:
        return _check(look, as_json=as_json)
    if watch:
        running.run(_watch(look, _view(as_json=as_json)))
    found = look()
    with _view(as_json=as_json) as view:
        view.show(found)
    return ExitCode.DONE


def _view(*, as_json: bool) -> "StatusView":
    if as_json:
        return _Ndjson()
    if sys.stdout.isatty():
        from syncd.cli.status_table import Screen  # noqa: PLC0415 - rich is for terminals

        return Screen()
    return _Plain()


class StatusView(AbstractContextManager["StatusView"], Protocol):
    """Shows one status after another, while it is entered."""

    def show(self, found: v1.Status) -> None:
        """What is so now."""

    def show_error(self, error: SyncdError) -> None:
        """Nobody knows what is so."""


class _Plain:
    """Columns, without a terminal's help."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def show(self, found: v1.Status) -> None:
        self._write(status_page.text(status_page.page(found, time.time())))

    def show_error(self, error: SyncdError) -> None:
        self._write(error_lines(error))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class _Ndjson(_Plain):
    """An object a line: ``v1.Status``, or the event of an error."""

    def show(self, found: v1.Status) -> None:
        self._write(events.line(found))

    def show_error(self, error: SyncdError) -> None:
        self._write(events.line(events.failed(error)))


def _check(look: Callable[[], v1.Status], *, as_json: bool) -> int:
    """Whether all is well, in one line."""
    try:
        found = look()
    except SyncdError as error:
        text = events.line(events.failed(error)) if as_json else f"failing: {printable(error.message)}\n"
        sys.stdout.write(text)
        return ExitCode.FAILED
    faults = status_page.faults(found)
    text = f"failing: {'; '.join(faults)}" if faults else "ok"
    sys.stdout.write(events.line(found) if as_json else f"{printable(text, limit=2000)}\n")
    if found.repairs or (found.scrub and found.scrub.damaged):
        return ExitCode.INTEGRITY
    return ExitCode.FAILED if faults else ExitCode.DONE


async def _watch(look: Callable[[], v1.Status], view: StatusView) -> None:
    """Look again and again; a daemon that is away for a while is waited for."""
    with view:
        while True:
            try:
                found = await in_thread(look)
            except SyncdError as error:
                view.show_error(error)
            else:
                view.show(found)
            await asyncio.sleep(_EVERY)
