"""``syncd pull``."""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence

import click
from rich.console import Console

from syncd.cli import logs, running
from syncd.cli.options import as_json, examples, shared
from syncd.cli.render import Lines, Ndjson, PullView, Quiet
from syncd.cli.session import Session
from syncd.cli.terminal import Terminal
from syncd.daemon.access import Access, ollama_key, registry_access
from syncd.daemon.settings import MAX_CONNECTIONS
from syncd.daemon.units import Rate
from syncd.download.fetch import Fetcher
from syncd.download.transfer import FetchSettings
from syncd.errors import ExitCode, SyncdError
from syncd.jobs.pull import PullMeans
from syncd.jobs.pull import pull as pull_one
from syncd.oci.name import Reference
from syncd.registry.client import RegistryClient
from syncd.store.root import Store

_CONNECT_TIMEOUT = 15.0  # seconds
_OTHER_THREADS = 16  # beside one for each connection: hashing, syncing, looking
_ANSWER_TIMEOUT = 60.0  # seconds; a registry may take its time over the headers of a cold blob


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
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--max-rate", metavar="RATE", callback=_rate, help='At most this many bytes a second, such as "50 MB/s".')
@click.option(
    "--connections", type=click.IntRange(1, MAX_CONNECTIONS), help="Connections open at once. [default: settings, or 8]"
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
    interrupted goes on where it stopped when the same command is run again.
    """
    references = [Reference.parse(name) for name in dict.fromkeys(names)]
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    # Before the store: who opens that may no longer be allowed to read these.
    access = registry_access(
        session.loaded, os.environ, own_key=ollama_key(), asked=[one.name.host for one in references]
    )
    for notice in access.notices:
        session.notice(f"warning: {notice}")
    download = session.loaded.settings.download
    fetching = FetchSettings(
        connections=connections or download.connections,
        max_rate=download.max_rate if max_rate is None else max_rate,
        stall_timeout=download.stall_timeout,
    )
    with session.open_store(create=True, writes=True) as store, _view(quiet=quiet, as_json=as_json) as view:
        return running.run(
            _pull_all(references, store, session.loaded.settings.min_free, access, fetching, view),
            hint="run the same command to resume",
            threads=fetching.connections + _OTHER_THREADS,
        )


async def _pull_all(
    references: Sequence[Reference],
    store: Store,
    floor: int,
    access: Access,
    fetching: FetchSettings,
    view: PullView,
) -> int:
    """Pull one after another; the exit code of the first that failed, else 0."""
    code = ExitCode.DONE
    async with RegistryClient(
        access.configs,
        default=access.default,
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_ANSWER_TIMEOUT,
        random=random.random,
    ) as registry:
        fetcher = Fetcher(registry, fetching, clock=time.monotonic, random=random.random)
        means = PullMeans(store=store, registry=registry, fetcher=fetcher, floor=floor)
        for reference in references:
            try:
                view.done(await pull_one(reference, means, view.show))
            except SyncdError as error:
                view.failed(reference, error)
                code = code or error.exit_code
                _heed_cancellation()
    return code


def _heed_cancellation() -> None:
    """End here if a signal came while the pull was failing: a TaskGroup that is aborting drops a cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _view(*, quiet: bool, as_json: bool) -> PullView:
    if as_json:
        return Ndjson(sys.stdout, sys.stderr, clock=time.monotonic)
    if quiet:
        return Quiet(sys.stderr)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(console, sys.stdout, clock=time.monotonic)
    return Lines(sys.stdout, sys.stderr, clock=time.monotonic)
