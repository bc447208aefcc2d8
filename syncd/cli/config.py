"""``syncd config``: whether the settings can be used, and what they come to."""

import os
import sys
from pathlib import Path

import click
import msgspec

from syncd.cli import words
from syncd.cli.options import CONFIG, as_json, examples, shared
from syncd.cli.session import Session
from syncd.daemon.access import ollama_key
from syncd.daemon.origins import Shown, as_toml, dotted, effective
from syncd.daemon.places import socket_path
from syncd.daemon.usable import usable
from syncd.errors import ConfigurationError
from syncd.store.owner import name_of
from syncd.text import printable


class Checked(msgspec.Struct, frozen=True):
    """What ``syncd config check --json`` writes where all is well. ``user``: who could read what the settings name."""

    files: tuple[str, ...]
    store: str
    models: int
    user: str
    warnings: tuple[str, ...]


class Setting(msgspec.Struct, frozen=True):
    """A value by its key in one word. ``origin``: ``default``, ``FILE:LINE``, an option, or a variable."""

    key: str
    value: Shown
    origin: str


class Settings(msgspec.Struct, frozen=True):
    """What ``syncd config show --json`` writes: the files that were read, in order, and every value."""

    files: tuple[str, ...]
    settings: tuple[Setting, ...]


@click.group(no_args_is_help=False, epilog=examples("syncd config check", "syncd config show"))
@shared
def config() -> None:
    """Check the settings, or show what they come to."""


@config.command(epilog=examples("syncd config check", "syncd config check ./syncd.toml"))
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json
@shared
@click.pass_context
def check(context: click.Context, file: Path | None, *, as_json: bool) -> None:
    """Check the settings, and whether what they name can be used by this user: secrets, certificates, the group.

    FILE is checked together with the drop-ins beside it (conf.d/*.toml). Without it: the settings that count.
    """
    if file is not None:
        context.meta[CONFIG] = file
    session = Session.begin(context)
    loaded = session.loaded
    access = usable(loaded, os.environ, own_key=ollama_key())
    files = tuple(str(one.path) for one in loaded.files)
    if as_json:
        checked = Checked(
            files, str(session.choice.path), len(loaded.settings.models), name_of(os.geteuid()), access.notices
        )
        sys.stdout.write(msgspec.json.encode(checked).decode("utf-8") + "\n")
        return
    for one in files:
        sys.stdout.write(f"{printable(one, limit=4096)}\n")
    for text in access.notices:
        session.notice(f"warning: {text}")
    what = "can be used" if files else "there is no settings file: the defaults can be used"
    sys.stdout.write(
        f"{what} by {name_of(os.geteuid())}: {words.count(len(loaded.settings.models), 'model')}, "
        f"store {printable(str(session.choice.path), limit=4096)} ({session.choice.origin})\n"
    )


@config.command(epilog=examples("syncd config show", "syncd config show --json"))
@as_json
@shared
@click.pass_context
def show(context: click.Context, *, as_json: bool) -> None:
    """Show every setting that counts, and where it comes from. Secrets are masked."""
    session = Session.begin(context)
    values = effective(session.loaded, os.environ, store=session.choice, socket=_socket(session))
    if not as_json:
        sys.stdout.write(as_toml(values))
        return
    shown = Settings(
        tuple(str(one.path) for one in session.loaded.files),
        tuple(Setting(dotted(one.keys), one.value, one.origin) for one in values),
    )
    sys.stdout.write(msgspec.json.encode(shown).decode("utf-8") + "\n")


def _socket(session: Session) -> Path | None:
    try:
        return socket_path(session.loaded.settings, os.environ, os.geteuid())
    except ConfigurationError:
        return None  # this user runs no daemon
