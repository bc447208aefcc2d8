"""``syncd init``."""

import sys

import click

from syncd.api import events
from syncd.cli import place
from syncd.cli.options import as_json, examples, shared
from syncd.cli.session import Session
from syncd.store.owner import Owner, become
from syncd.store.root import Store
from syncd.store.takeover import init as init_store
from syncd.text import printable


@click.command(epilog=examples("syncd init", "sudo syncd init --owner ollama --store /srv/ollama/models"))
@click.option("--owner", "user", metavar="USER", help="Whose store it is from now on. Only root can give it away.")
@as_json
@shared
@click.pass_context
def init(context: click.Context, user: str | None, *, as_json: bool) -> None:
    """Make a store, or take over the models folder that is there.

    One user owns a store and alone writes to it. The models that an Ollama has put there stay; each is verified when
    syncd needs it first.
    """
    session = Session.begin(context)
    place.refuse_beside_a_daemon(session)
    path, allowed = session.choice.path, session.loaded.settings.allow_network_filesystem
    owner = Owner.named(user) if user is not None else None
    init_store(path, owner=owner, allow_network_filesystem=allowed)
    if owner is not None:
        become(owner)
    # Opened as its owner will: what does not work then is said now.
    with Store.open(path, create=False, allow_network_filesystem=allowed) as store:
        session.say_where(as_user=owner.name if owner else None)
        for text in store.notices:
            session.notice(f"warning: {text}")
    if as_json:
        sys.stdout.write(events.line(events.StoreMade(event="initialised", store=printable(str(path), limit=4096))))
