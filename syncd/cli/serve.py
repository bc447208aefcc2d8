"""``syncd serve``: the service."""

import os
import sys

import click

from syncd.cli import logs
from syncd.cli.options import CONFIG, VERBOSE, examples, shared
from syncd.cli.session import Session


@click.command(epilog=examples("syncd serve", "syncd serve --config /etc/syncd/syncd.toml"))
@shared
@click.pass_context
def serve(context: click.Context) -> int:
    """Own the store: keep the models of the settings published and current, and answer on the control socket.

    It runs in the foreground until SIGTERM, as systemd likes it, and reads its settings anew when they change or on
    SIGHUP. A second one for the same store leaves with exit code 8. Logs go to stderr: for people on a terminal, for
    journald where that listens, else one JSON object a line.
    """
    logs.configure_service(context.meta.get(VERBOSE, 0), sys.stderr, os.environ)
    from syncd.daemon.main import run  # noqa: PLC0415 - no other command pays for it

    session = Session.begin(context)
    with session.open_store(create=True, writes=False) as store:
        return run(session.loaded, store, os.environ, named=context.meta.get(CONFIG))
