"""``syncd gc``. ``--dry-run`` shows the very plan that a real run executes."""

import gc as cycles
import sys

import click

from syncd.api import events
from syncd.api.collect import COLLECT, CollectRequest
from syncd.api.collected import Collected
from syncd.cli import logs, place, words
from syncd.cli.options import as_json, dry_run, examples, shared
from syncd.cli.session import Session
from syncd.errors import BusyError
from syncd.text import printable, size


@click.command(epilog=examples("syncd gc --dry-run", "syncd gc"))
@click.option(
    "--without-servers",
    is_flag=True,
    help="Take blobs although servers start, do not answer, or have loaded what nobody knows.",
)
@dry_run
@as_json
@shared
@click.pass_context
def gc(context: click.Context, *, without_servers: bool, dry_run: bool, as_json: bool) -> None:
    """Give back the space of what nothing needs: blobs that no model names any more, and what crashes left.

    A blob stays for an hour after it was last needed, while any server has it loaded, and while a pull that is under
    way or was interrupted needs it; what an interrupted pull has fetched stays for seven days, and what is in
    quarantine for thirty. The settings say so otherwise.

    Where it is not known what servers have loaded, blobs stay, and the exit code is 8.
    """
    session = Session.begin(context)
    logs.configure(session.verbosity)
    # A plan keeps all of what it makes until its end, and that ends soon: looking for cycles would be a fifth of it.
    cycles.disable()
    told = place.of(session).operate(COLLECT, CollectRequest(dry_run, without_servers), lambda _line: None)
    sys.stdout.write(events.line(told) if as_json else collected_text(told))
    sys.stdout.flush()
    for notice in told.notices:
        session.notice(f"note: {notice}")
    if told.held_back:
        raise BusyError(
            f"{words.count(len(told.held_back), 'blob')} ({size(told.held_back_bytes)}) stay: {told.doubts[0]}",
            hint="run it again later; 'syncd gc --without-servers' takes them all the same",
        )


def collected_text(event: Collected) -> str:
    """What was, or would be, taken: a line each, and the sum."""
    lines = [f"{printable(blob)}  {size(event.sizes.get(blob, 0))}" for blob in event.blobs]
    lines += [_line(event, file, "left by an interrupted pull") for file in event.leftovers]
    lines += [_line(event, file, "in quarantine for long enough") for file in event.quarantined]
    verb = "would be given back" if event.dry_run else "given back"
    return "".join(f"{line}\n" for line in (*lines, f"{size(event.freed_bytes)} {verb}"))


def _line(event: Collected, file: str, why: str) -> str:
    return f"{printable(file)}  {size(event.sizes.get(file, 0))}  {why}"
