"""How ``syncd export`` and ``syncd import`` look."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

import msgspec
from rich.console import Console

from syncd.api import bundles, events
from syncd.cli import words
from syncd.cli.bars import byte_bar
from syncd.cli.render import Lines, Ndjson, PullView, Quiet
from syncd.cli.terminal import Terminal
from syncd.jobs.progress import Phase, PullOutcome
from syncd.text import printable, size

_STEPS = {Phase.WAITING: "another process brings it in; waiting", Phase.FETCHING: "taking"}


class Watch:
    """Shows nothing. Its ``show`` is called in a thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def show(self, done: int, whole: int | None) -> None:
        """So many bytes, of how many if that is known."""


class _Every(Watch):
    def __init__(self, seconds: float, say: Callable[[int, int | None], None]) -> None:
        self._seconds = seconds
        self._say = say
        self._next = time.monotonic() + seconds

    def show(self, done: int, whole: int | None) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + self._seconds
            self._say(done, whole)


class _Bar(Watch):
    def __init__(self, console: Console, verb: str) -> None:
        self._bar = byte_bar(console, verb)
        self._task = self._bar.add_task("", total=None, amount="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, done: int, whole: int | None) -> None:
        self._bar.update(self._task, total=whole, completed=done, amount=_amount(done, whole))


def watch(verb: str, moment: Callable[[int, int | None], msgspec.Struct], *, quiet: bool, as_json: bool) -> Watch:
    """What fits where the output goes. ``verb``: what goes on; ``moment``: the event for programs."""
    if as_json:
        return _Every(0.5, lambda done, whole: _write(sys.stdout, events.line(moment(done, whole))))
    if quiet:
        return Watch()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Bar(console, verb)
    return _Every(5.0, lambda done, whole: _write(sys.stderr, f"{verb}: {_amount(done, whole)}\n"))


def pulls(*, quiet: bool, as_json: bool) -> PullView:
    """How each model comes in."""
    if as_json:
        return _Programs(sys.stdout, sys.stderr, clock=time.monotonic)
    if quiet:
        return Quiet(sys.stderr)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Bars(console, sys.stdout, clock=time.monotonic)
    return _People(sys.stdout, sys.stderr, clock=time.monotonic, steps=_STEPS)


class _Programs(Ndjson):
    def done(self, outcome: PullOutcome) -> None:
        self._phase = None
        self._write(bundles.imported(outcome))


class _Bars(Terminal):
    def done(self, outcome: PullOutcome) -> None:
        self.result(imported_line(outcome))


class _People(Lines):
    def done(self, outcome: PullOutcome) -> None:
        self.result(imported_line(outcome))


def imported_line(ended: PullOutcome) -> str:
    """What came of a model."""
    name = printable(str(ended.reference.name))
    if ended.current:
        return f"{name} is in the store ({ended.digest})"
    parts = [f"imported {size(ended.fetched_bytes)}"] if ended.fetched_bytes else []
    if ended.found_bytes:
        parts.append(f"{size(ended.found_bytes)} were already here")
    return f"{name}: {', '.join([*parts, words.took(ended.seconds)])}, published {ended.digest}"


def exported_line(ended: bundles.BundleWritten) -> str:
    """What was written."""
    models = words.count(len(ended.models), "model")
    return (
        f"{ended.file}: {models}, {words.count(ended.blobs, 'blob')}, {size(ended.size)}, {words.took(ended.seconds)}\n"
    )


def _amount(done: int, whole: int | None) -> str:
    return size(done) if whole is None else f"{size(done)} of {size(whole)}"


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
