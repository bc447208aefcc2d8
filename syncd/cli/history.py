"""``syncd history``."""

import sys
import time
from datetime import datetime

import click

from syncd.api import events
from syncd.api.history import HISTORY, HistoryRequest, HistoryTold, PublicationLine
from syncd.cli import logs, place, words
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.errors import SyncdError
from syncd.oci.name import ModelName
from syncd.text import printable, size

_HEADER = ("", "DIGEST", "PUBLISHED", "SIZE", "BLOBS", "FROM")
_SHORT = 12  # hex digits, as long as no other digest here begins alike


@click.command(epilog=examples("syncd history mistral:7b", "syncd history mistral:7b --json"))
@click.argument("name", metavar="NAME", shell_complete=stored_names)
@as_json
@shared
@click.pass_context
def history(context: click.Context, name: str, *, as_json: bool) -> None:
    """Show what was published under NAME, the newest first.

    A star marks what the tag holds now. BLOBS: whether the bytes are still on the disk (here, partly, gone); 'syncd
    rollback NAME DIGEST' fetches what is not.
    """
    session = Session.begin(context, lenient=True)
    logs.configure(session.verbosity)
    asked = HistoryRequest(str(ModelName.parse(name)))
    told = place.of(session).operate(HISTORY, asked, lambda _line: None)
    sys.stdout.write(events.line(told) if as_json else table(told, time.time()))


def table(told: HistoryTold, now: float) -> str:
    """The history in columns. ``now``: seconds since the epoch."""
    digits = _digits({one.digest.removeprefix("sha256:") for one in told.publications})
    rows = [_HEADER, *(_row(one, now, digits) for one in told.publications)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _row(one: PublicationLine, now: float, digits: int) -> tuple[str, ...]:
    try:
        when = words.ago(now - datetime.fromisoformat(one.published).timestamp())
    except (ValueError, OverflowError) as error:
        raise SyncdError(f"not a time: {one.published[:40]!r}") from error
    notes = [printable(one.origin)]
    if one.chosen:
        notes.append("chosen by its digest")
    if one.pinned is not None:
        notes.append(f"pinned by {printable(one.pinned, limit=1000)}")
    blobs = one.blobs if one.blobs == "here" else f"{printable(one.blobs)} ({size(one.missing)} to fetch)"
    short = printable(one.digest.removeprefix("sha256:")[:digits])
    return ("*" if one.current else "", short, when, size(one.size), blobs, "; ".join(notes))


def _digits(digests: set[str]) -> int:
    """So many hex digits that no two of these begin alike."""
    return next((count for count in range(_SHORT, 64) if len({one[:count] for one in digests}) == len(digests)), 64)
