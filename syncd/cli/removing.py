"""``syncd rm``. ``--dry-run`` shows the very plan that a real run executes."""

import sys

import click

from syncd.api import events
from syncd.cli import logs, place, words
from syncd.cli.failure import report
from syncd.cli.options import as_json, dry_run, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.errors import ExitCode, SyncdError
from syncd.oci.name import ModelName
from syncd.text import printable, size


@click.command(epilog=examples("syncd rm mistral:7b", "syncd rm --dry-run mistral:7b llava:7b"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=stored_names)
@dry_run
@as_json
@shared
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...], *, dry_run: bool, as_json: bool) -> int:
    """Remove models; a pull of such a name is cancelled first.

    Blobs that other models share stay. The others are free for 'syncd gc' an hour later, once no server has them
    loaded. One name that fails does not stop the others, and the exit code is that of the first failure.
    """
    wanted = [ModelName.parse(name) for name in dict.fromkeys(names)]
    session = Session.begin(context)
    logs.configure(session.verbosity)
    code = ExitCode.DONE
    with place.of(session).removing(dry_run=dry_run) as remove:
        for name in wanted:
            try:
                event = remove(name)
            except SyncdError as error:
                report(error, as_json=as_json, name=str(name))
                code = code or error.exit_code
            else:
                sys.stdout.write(events.line(event) if as_json else removed_line(event))
    return code


def removed_line(event: events.Removed) -> str:
    """What removing a model meant, or would mean."""
    verb, name = ("would be removed" if event.dry_run else "removed"), printable(event.name)
    if not event.published:
        return f"{name}: its pull {'would be' if event.dry_run else 'was'} cancelled; no such model was visible\n"
    parts = [f"{name} {verb}"]
    if event.freed:
        parts.append(f"{size(event.freed_bytes)} in {words.count(len(event.freed), 'blob')} for 'syncd gc'")
    if event.shared:
        parts.append(f"{words.count(len(event.shared), 'blob')} stay, which others need")
    return ", ".join(parts) + "\n"
