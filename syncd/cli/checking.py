"""``syncd verify``."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

import click
from rich.console import Console

from syncd.api import events
from syncd.cli import logs, mending, place, words
from syncd.cli.bars import byte_bar
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.errors import IntegrityError
from syncd.oci.name import ModelName
from syncd.text import size


@click.command(epilog=examples("syncd verify", "syncd verify mistral:7b", "syncd verify --repair"))
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=stored_names)
@click.option("--repair", is_flag=True, help="Mend what is damaged: only the damaged parts are fetched.")
@as_json
@shared
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...], *, repair: bool, as_json: bool) -> None:
    """Hash every blob of these models (of all, if none is named) and report every fault.

    The exit code is 6 if there is any, or with --repair if any is left. A model that nobody can mend any more is taken
    out of sight, into .syncd/quarantine, unless the settings say [scrub] unrepairable = "keep".
    """
    wanted = [ModelName.parse(name) for name in names] or None
    session = Session.begin(context)
    logs.configure(session.verbosity)
    if repair:
        mending.verify_and_mend(session, wanted or (), watch(as_json=as_json), as_json=as_json)
        return
    faults, verified = place.of(session).verify(wanted, watch(as_json=as_json))
    for fault in faults:
        sys.stdout.write(events.line(fault) if as_json else mending.fault_line(fault))
    if as_json:
        sys.stdout.write(events.line(verified))
    if faults:
        raise IntegrityError(
            f"{words.count(len(faults), 'fault')} in {_looked_at(verified)}",
            hint="'syncd verify --repair' mends it, and fetches only what is damaged or missing",
        )
    if not as_json:
        sys.stdout.write(f"{_looked_at(verified)}: every byte is right, {words.took(verified.seconds)}\n")


def _looked_at(found: events.Verified) -> str:
    return f"{words.count(found.models, 'model')}, {words.count(found.blobs, 'blob')}, {size(found.size)}"


class _Watch:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def show(self, progress: events.Verifying) -> None:
        """One moment."""


class _Every(_Watch):
    """Tells ``say`` of a moment every few seconds."""

    def __init__(self, seconds: float, say: Callable[[events.Verifying], None]) -> None:
        self._seconds = seconds
        self._say = say
        self._next = time.monotonic() + seconds

    def show(self, progress: events.Verifying) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + self._seconds
            self._say(progress)


class _Bar(_Watch):
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = byte_bar(console, "verifying")
        self._task = self._bar.add_task("", total=None, amount="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: events.Verifying) -> None:
        amount = f"{size(progress.done)} of {size(progress.size)}"
        self._bar.update(self._task, total=progress.size, completed=progress.done, amount=amount)


def watch(*, as_json: bool) -> _Watch:
    """What fits where the output goes."""
    if as_json:
        return _Every(0.5, lambda now: _write(sys.stdout, events.line(now)))
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Bar(console)
    return _Every(5.0, lambda now: _write(sys.stderr, f"{size(now.done)} of {size(now.size)} verified\n"))


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
