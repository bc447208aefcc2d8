"""``syncd history``."""

import sys

import click

from syncd.api import events
from syncd.api.history import HISTORY, HistoryRequest, PublicationLine
from syncd.cli import logs, place
from syncd.cli.options import as_json, examples, shared
from syncd.cli.session import Session
from syncd.oci.name import ModelName
from syncd.text import printable, size


@click.command(epilog=examples("syncd history mistral:7b"))
@click.argument("name", metavar="NAME")
@as_json
@shared
@click.pass_context
def history(context: click.Context, name: str, *, as_json: bool) -> None:
    """Show what was published under NAME, the newest first. A star marks what the tag holds now."""
    session = Session.begin(context, lenient=True)
    logs.configure(session.verbosity)
    asked = HistoryRequest(str(ModelName.parse(name)))
    told = place.of(session).operate(HISTORY, asked, lambda _line: None)
    if as_json:
        sys.stdout.write(events.line(told))
    else:
        sys.stdout.write("".join(map(_row, told.publications)))


def _row(one: PublicationLine) -> str:
    mark = "*" if one.current else " "
    return f"{mark} {one.digest}  {one.published}  {size(one.size):>9}  {printable(one.origin)}\n"
