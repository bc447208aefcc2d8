"""``syncd scrub``."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TextIO

import click
import msgspec
from rich.console import Console

from syncd.api import events
from syncd.api.scrub import SCRUB, ScrubRequest
from syncd.api.scrubbed import DamageLine, Scrubbed, ScrubDamage, ScrubMoment
from syncd.cli import logs, mending, place, words
from syncd.cli.bars import byte_bar
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.daemon.units import Rate
from syncd.errors import IntegrityError
from syncd.oci.name import ModelName
from syncd.text import printable, size

_GOES_ON = "run the same command again: it goes on where it stopped"


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Rate | None:
    try:
        return None if value is None else Rate.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog=examples("syncd scrub", "syncd scrub mistral:7b --max-rate 100MB/s", "syncd scrub --repair"))
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=stored_names)
@click.option("--max-rate", metavar="RATE", callback=_rate, help='At most this many bytes a second, such as "50 MB/s".')
@click.option("--repair", is_flag=True, help="Mend what is damaged: only the damaged parts are fetched.")
@click.option("--anew", is_flag=True, help="Begin at the beginning, where an earlier one was interrupted.")
@as_json
@shared
@click.pass_context
def scrub(
    context: click.Context,
    names: tuple[str, ...],
    max_rate: Rate | None,
    *,
    repair: bool,
    anew: bool,
    as_json: bool,
) -> None:
    """Read every blob of these models (of all, if none is named) from the disk itself, and find what has rotted.

    'syncd verify' may be shown what memory holds of a file; a scrub reads past it, and leaves it alone. It can be
    interrupted at any moment, and goes on there when it is run again. What is damaged counts as stored no longer. The
    exit code is 6 if there is any, or with --repair if any is left.
    """
    wanted = tuple(str(ModelName.parse(name)) for name in names) or None
    session = Session.begin(context)
    logs.configure(session.verbosity)
    asked = ScrubRequest(wanted, None if max_rate is None else float(max_rate), anew, repair)
    mends = mending.View(None, as_json=as_json)
    with _view(as_json=as_json) as view:

        def hear(line: msgspec.Struct) -> None:
            (mends if isinstance(line, mending.LINES) else view).hear(line)

        told = place.of(session).operate(SCRUB, asked, hear, hint=_GOES_ON)
    sys.stdout.write(events.line(told) if as_json else _summary(told, repair=repair))
    if told.damages and repair:
        raise mending.not_mended(len(told.damages), mends, again="scrub --repair")
    if told.damages:
        raise IntegrityError(
            f"{words.count(len(told.damages), 'damaged blob')} in {_looked_at(told)}",
            hint="'syncd scrub --repair' mends it, and fetches only what is damaged or missing",
        )


def damage_line(one: ScrubDamage) -> str:
    """A damaged blob, and whom it hits."""
    where = (
        "" if not one.chunks else f" (chunks {', '.join(map(str, one.chunks[:8]))}{', …' if one.chunks[8:] else ''})"
    )
    what = one.kind.replace("_", " ")
    return f"{printable(', '.join(one.models))}: {what}: {one.digest}: {printable(one.detail)}{where}\n"


def _looked_at(told: Scrubbed) -> str:
    return f"{words.count(told.models, 'model')}, {words.count(told.blobs, 'blob')}, {size(told.size)}"


def _found(told: Scrubbed, *, repair: bool) -> str:
    if not told.damaged:
        return "every byte is right"
    if repair or not told.damages:  # a daemon mends by itself, and may be done by now
        return mending.damage_and_mending(told.damaged, told.mended, told.unnamed)
    mended = f", {told.mended} of them mended by now" if told.mended else ""
    unnamed = f", {told.unnamed} of no model any more" if told.unnamed else ""
    return f"{words.count(told.damaged, 'blob')} damaged{mended}{unnamed}"


def _summary(told: Scrubbed, *, repair: bool) -> str:
    rate = f" ({size(told.size / told.seconds)}/s)" if told.seconds > 0 and not told.resumed else ""
    found = _found(told, repair=repair)
    lines = [
        f"{_looked_at(told)}: {found}, {words.took(told.seconds)}{rate}{' after going on' if told.resumed else ''}\n"
    ]
    if not told.direct:
        lines.append(
            f"the file system knows no O_DIRECT: {words.count(told.buffered, 'blob')} were read through the page cache,"
            " and what the disk holds of them may differ\n"
        )
    return "".join(lines)


class _View(AbstractContextManager["_View"]):
    """Damages as they are found, and nothing else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def hear(self, line: msgspec.Struct) -> None:
        """A line."""
        if isinstance(line, DamageLine):
            self.damaged(line)
        elif isinstance(line, ScrubMoment):
            self.show(line)

    def damaged(self, line: DamageLine) -> None:
        """A damage."""
        _write(sys.stdout, damage_line(line.damage))

    def show(self, now: ScrubMoment) -> None:
        """How far it is."""


class _Lines(_View):
    """How far it is every few seconds, through ``say``."""

    def __init__(self, seconds: float, say: Callable[[ScrubMoment], None]) -> None:
        self._seconds = seconds
        self._say = say
        self._next = time.monotonic() + seconds

    def show(self, now: ScrubMoment) -> None:
        if (moment := time.monotonic()) >= self._next:
            self._next = moment + self._seconds
            self._say(now)


class _Ndjson(_Lines):
    """Every line as it is."""

    def __init__(self) -> None:
        super().__init__(0.5, lambda now: _write(sys.stdout, events.line(now)))

    def damaged(self, line: DamageLine) -> None:
        _write(sys.stdout, events.line(line))


class _Bar(_View):
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = byte_bar(console, "scrubbing")
        self._task = self._bar.add_task("", total=None, amount="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def damaged(self, line: DamageLine) -> None:
        if sys.stdout.isatty():
            self._bar.console.print(damage_line(line.damage), end="", soft_wrap=True)
        else:
            super().damaged(line)

    def show(self, now: ScrubMoment) -> None:
        amount = f"{size(now.done)} of {size(now.size)}"
        self._bar.update(self._task, total=now.size, completed=now.done, amount=amount)


def _view(*, as_json: bool) -> _View:
    """What fits where the output goes."""
    if as_json:
        return _Ndjson()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _Bar(console)
    return _Lines(5.0, lambda now: _write(sys.stderr, f"{size(now.done)} of {size(now.size)} read\n"))


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
