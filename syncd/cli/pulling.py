"""``syncd pull``."""

import sys
import time

import click
from rich.console import Console

from syncd.cli import logs, place
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.place import Limits
from syncd.cli.render import Lines, Ndjson, PullView, Quiet
from syncd.cli.session import Session
from syncd.cli.terminal import Terminal
from syncd.daemon.settings import MAX_CONNECTIONS
from syncd.daemon.units import Rate
from syncd.oci.name import Reference


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Rate | None:
    try:
        return None if value is None else Rate.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    epilog=examples(
        "syncd pull mistral:7b", "syncd pull hf.co/user/repo-GGUF:Q4_K_M nomic-embed-text --max-rate 50MB/s"
    )
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=stored_names)
@click.option("--max-rate", metavar="RATE", callback=_rate, help='At most this many bytes a second, such as "50 MB/s".')
@click.option(
    "--connections",
    type=click.IntRange(1, MAX_CONNECTIONS),
    help="At most so many connections. [default: settings, or 8]",
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@as_json
@shared
@click.pass_context
def pull(
    context: click.Context,
    names: tuple[str, ...],
    max_rate: Rate | None,
    connections: int | None,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Fetch models, verify them, and make them visible, each whole or not at all.

    A NAME is a model's name as Ollama has it, optionally pinned: NAME@sha256:DIGEST. Several are pulled one after
    another; one that fails does not stop the others, and the exit code is that of the first failure. A pull that was
    interrupted goes on where it stopped when the same command is run again. With a daemon, the pull is the daemon's:
    who interrupts this command stops watching, and 'syncd cancel' stops the pull.
    """
    references = [Reference.parse(name) for name in dict.fromkeys(names)]
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    view = view_for(quiet=quiet, as_json=as_json)
    return place.of(session).pull(references, Limits(connections, max_rate), view)


def view_for(*, quiet: bool, as_json: bool) -> PullView:
    """What fits where the output goes."""
    if as_json:
        return Ndjson(sys.stdout, sys.stderr, clock=time.monotonic)
    if quiet:
        return Quiet(sys.stderr)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(console, sys.stdout, clock=time.monotonic)
    return Lines(sys.stdout, sys.stderr, clock=time.monotonic)
