"""``syncd cancel``."""

import sys

import click

from syncd.api import events, v1
from syncd.cli import place
from syncd.cli.failure import report
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.errors import ExitCode, SyncdError
from syncd.text import printable


@click.command(epilog=examples("syncd cancel mistral:7b", "syncd cancel 1f0c82d4"))
@click.argument("which", metavar="NAME|JOB...", nargs=-1, required=True, shell_complete=stored_names)
@as_json
@shared
@click.pass_context
def cancel(context: click.Context, which: tuple[str, ...], *, as_json: bool) -> int:
    """Stop pulls that the daemon is at: by the model's name, or by the job that 'syncd status' shows.

    What a pull has fetched stays, for the next one. Without a daemon there is nothing to stop: a pull without one ends
    where it runs.
    """
    there = place.of(Session.begin(context, lenient=True))
    code = ExitCode.DONE
    for what in dict.fromkeys(which):
        try:
            cancelled = there.cancel(what)
        except SyncdError as error:
            report(error, as_json=as_json, name=what)
            code = code or error.exit_code
        else:
            text = "".join(cancelled_line(job) for job in cancelled.cancelled)
            sys.stdout.write(events.line(cancelled) if as_json else text)
    return code


def cancelled_line(job: v1.JobInfo) -> str:
    """A job that was asked to stop, and whose wish it had been."""
    return f"{printable(job.name)}: cancelled (job {printable(job.id)}, asked for by {printable(job.asked_by)})\n"
