"""``syncd rm`` and ``syncd gc``: what takes away. ``--dry-run`` shows the very plan that a real run executes."""

import sys
import time

import click

from syncd.api import events
from syncd.cli import logs, running, words
from syncd.cli.failure import report
from syncd.cli.options import as_json, dry_run, examples, shared
from syncd.cli.session import Session
from syncd.errors import ExitCode, IntegrityError, SyncdError
from syncd.jobs import collect as collection
from syncd.jobs import remove as removal
from syncd.oci.name import ModelName
from syncd.text import size


@click.command(epilog=examples("syncd rm mistral:7b", "syncd rm --dry-run mistral:7b llava:7b"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@dry_run
@as_json
@shared
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...], *, dry_run: bool, as_json: bool) -> int:
    """Remove models; a pull of such a name is cancelled first.

    Blobs that other models share stay. The others are free for 'syncd gc' an hour later. One name that fails does not
    stop the others, and the exit code is that of the first failure.
    """
    wanted = [ModelName.parse(name) for name in dict.fromkeys(names)]
    session = Session.begin(context)
    logs.configure(session.verbosity)
    code = ExitCode.DONE
    with session.open_store(writes=not dry_run) as store:
        for name in wanted:
            try:
                if dry_run:
                    planned = removal.plan(store, name, time.time())
                else:
                    planned = running.run(removal.remove(store, name, now=time.time()))
            except SyncdError as error:
                report(error, as_json=as_json, name=str(name))
                code = code or error.exit_code
            else:
                event = events.removed(planned, dry_run=dry_run)
                sys.stdout.write(events.line(event) if as_json else removed_line(planned, dry_run=dry_run))
    return code


def removed_line(planned: removal.Removal, *, dry_run: bool) -> str:
    """What removing a model meant, or would mean."""
    verb, name = ("would be removed" if dry_run else "removed"), str(planned.name)
    if not planned.published:
        return f"{name}: its pull {'would be' if dry_run else 'was'} cancelled; no such model was visible\n"
    parts = [f"{name} {verb}"]
    if planned.freed:
        parts.append(f"{size(planned.freed_bytes)} in {words.count(len(planned.freed), 'blob')} for 'syncd gc'")
    if planned.shared:
        parts.append(f"{words.count(len(planned.shared), 'blob')} stay, which others need")
    return ", ".join(parts) + "\n"


@click.command(epilog=examples("syncd gc --dry-run", "syncd gc"))
@dry_run
@as_json
@shared
@click.pass_context
def gc(context: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Give back the space of blobs that no model names any more, and of what crashes left.

    A blob stays for an hour after it was last needed, and what an interrupted pull has fetched for seven days.
    """
    session = Session.begin(context)
    logs.configure(session.verbosity)
    with session.open_store(writes=not dry_run) as store:
        if dry_run:
            planned = collection.plan(store, time.time())
        else:
            planned = running.run(collection.collect(store, now=time.time()))
    if planned.broken:
        one = planned.broken[0]
        raise IntegrityError(
            f"nothing is collected while manifests/{one.path} cannot be read: {one.problem}",
            hint=f"'syncd pull {one.name}' replaces it, 'syncd rm {one.name}' removes it" if one.name else None,
        )
    sys.stdout.write(
        events.line(events.collected(planned, dry_run=dry_run)) if as_json else collected_text(planned, dry_run=dry_run)
    )


def collected_text(planned: collection.CollectionPlan, *, dry_run: bool) -> str:
    """What was, or would be, taken: a line each, and the sum."""
    lines = [f"{blob.digest}  {size(blob.size)}" for blob in planned.blobs]
    lines += [f"{file.digest or file.name}  {size(file.size)}  left by an interrupted pull" for file in planned.staged]
    verb = "would be given back" if dry_run else "given back"
    return "".join(f"{line}\n" for line in (*lines, f"{size(planned.freed)} {verb}"))
