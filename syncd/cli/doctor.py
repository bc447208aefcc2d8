"""``syncd doctor``."""

import sys
from itertools import groupby

import click
import msgspec

from syncd.api import events
from syncd.api.doctor import DOCTOR, Doctored, DoctorRequest, FindingLine, RemedyLine, TreatedLine, of_closed
from syncd.cli import logs, place, words
from syncd.cli.here import Here
from syncd.cli.options import as_json, dry_run, examples, shared
from syncd.cli.session import Session
from syncd.errors import IntegrityError, StoreError, SyncdError, UsageError
from syncd.text import printable

_SYMBOLS = {"error": "✗", "warning": "!", "note": "·"}
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_TITLES = {
    "models": "Models",
    "store": "Store",
    "servers": "Servers",
    "host": "Host",
    "settings": "Settings",
}
_MOST = 5  # of a kind, unless -v is given
_HINT = "nothing is lost: run it again, and it goes on"


@click.command(epilog=examples("syncd doctor", "syncd doctor --fix --dry-run", "syncd doctor --json --offline"))
@click.option("--fix", is_flag=True, help="Do what loses nothing: modes, strays to quarantine, repairs.")
@click.option("--offline", is_flag=True, help="Ask no registry what time it is.")
@dry_run
@as_json
@shared
@click.pass_context
def doctor(context: click.Context, *, fix: bool, offline: bool, dry_run: bool, as_json: bool) -> None:
    """Find what is wrong with store, servers, host and settings, say why it matters and what to do.

    No blob is read: 'syncd scrub' and 'syncd verify' do that. --fix mends what can be mended without losing anything:
    what belongs to no model goes to .syncd/quarantine, and what is damaged is repaired. Look at the plan with --fix
    --dry-run.

    Exit codes: 0, nothing worse than a note remains; 6, errors remain in the store; 1, other errors, or warnings,
    remain.
    """
    if dry_run and not fix:
        raise UsageError("--dry-run shows what --fix would do", hint="add --fix, or leave --dry-run out")
    session = Session.begin(context, lenient=True)
    logs.configure(session.verbosity)
    view = View(as_json=as_json, all_of_them=session.verbosity > 0)
    told = _ask(session, DoctorRequest(fix, dry_run, offline), view)
    view.conclude(told)
    _judge(told)


def _ask(session: Session, asked: DoctorRequest, view: "View") -> Doctored:
    where = place.of(session)
    try:
        return where.operate(DOCTOR, asked, view.hear, hint=_HINT)
    except StoreError:
        # It could not be opened, and its file system may tell why.
        told = of_closed(session.choice.path, view.hear) if isinstance(where, Here) else None
        if told is None:
            raise
        return told


def _judge(told: Doctored) -> None:
    """Raise what the exit code says."""
    again = None if told.opened else "the store could not be opened, and nothing in it was looked at"
    if told.integrity:
        hint = again or "'syncd doctor --fix' mends what can be mended; the rest is for you"
        raise IntegrityError(f"{words.count(told.integrity, 'error')} in the store at {told.store}", hint=hint)
    if told.errors or told.warnings:
        raise SyncdError(
            f"{words.count(told.errors, 'error')} and {words.count(told.warnings, 'warning')}, none of them an error of"
            " the store",
            hint=again,
        )


class View:
    """What is heard: for programs line by line, for people in groups at the end."""

    def __init__(self, *, as_json: bool, all_of_them: bool) -> None:
        self._as_json = as_json
        self._all = all_of_them
        self._lines: list[msgspec.Struct] = []

    def hear(self, line: msgspec.Struct) -> None:
        """A line."""
        if self._as_json:
            sys.stdout.write(events.line(line))
            sys.stdout.flush()
        else:
            self._lines.append(line)

    def conclude(self, told: Doctored) -> None:
        """All of it."""
        if self._as_json:
            sys.stdout.write(events.line(told))
        else:
            most = None if self._all else _MOST
            sys.stdout.write(page(self._lines, told, colours=sys.stdout.isatty(), most=most))
        sys.stdout.flush()


def page(lines: list[msgspec.Struct], told: Doctored, *, colours: bool, most: int | None) -> str:
    """Findings by area and kind, each kind with its reason and what to do; then what was done; then the sum.

    ``most``: subjects of a kind that are shown.
    """
    found = [line for line in lines if isinstance(line, FindingLine)]
    areas = list(_TITLES)
    # What a second look found belongs beside what the first one did.
    first = {one.id: index for index, one in reversed(list(enumerate(found)))}
    found.sort(key=lambda one: (areas.index(one.area) if one.area in areas else len(areas), first[one.id]))
    parts = []
    for area, of_area in groupby(found, key=lambda one: one.area):
        parts.append(f"{_TITLES.get(area, printable(area))}\n")
        parts += [
            _group(list(kind), colours=colours, most=most) for _, kind in groupby(of_area, key=lambda one: one.id)
        ]
        parts.append("\n")
    treated = [line for line in lines if isinstance(line, TreatedLine)]
    if told.dry_run:
        planned = [line for line in lines if isinstance(line, RemedyLine)]
        parts += [f"would mend {printable(one.subject)}: {printable(one.what)}\n" for one in planned]
    parts += [
        f"{'mended' if one.done else 'not mended'} {printable(one.subject)}: {printable(one.what)}\n" for one in treated
    ]
    return "".join((*parts, summary(told)))


def summary(told: Doctored) -> str:
    """The last line for people."""
    mended = f", {told.mended} mended" if told.mended else ""
    counts = ((told.errors, "error"), (told.warnings, "warning"), (told.notes, "note"))
    what = ", ".join(words.count(number, thing) for number, thing in counts if number)
    return f"{printable(told.store)}: {what or 'nothing is wrong'}{mended}\n"


def _group(found: list[FindingLine], *, colours: bool, most: int | None) -> str:
    first = found[0]
    shown = found[:most]
    lines = []
    for one in shown:
        mark = _SYMBOLS.get(one.severity, "?")
        if colours:
            mark = click.style(mark, fg=_COLOURS.get(one.severity), bold=True)
        lines.append(f"  {mark} {printable(one.subject)}: {printable(one.what)}\n")
    if len(found) > len(shown):
        lines.append(f"    and {len(found) - len(shown)} more like it (-v shows all)\n")
    lines.append(f"    why: {printable(first.why)}\n    do:  {printable(first.todo)}  [{printable(first.id)}]\n")
    return "".join(lines)
