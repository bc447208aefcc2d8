"""What every command begins with: the settings, the store that is meant, and the user who may write to it."""

import concurrent.futures.thread  # noqa: F401 - see below
import encodings.idna  # noqa: F401 - see below
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import click

from syncd.cli.options import CONFIG, STORE, VERBOSE
from syncd.daemon.settings import Loaded, StoreChoice, choose_store, load
from syncd.store.owner import become, decide, owner_of_store
from syncd.store.root import Store
from syncd.text import printable

# Python imports these two when it first needs them. By then root may have become the store's owner, who may not be able
# to read a Python that lies in root's home.


@dataclass(frozen=True, slots=True)
class Session:
    """One call of one command. ``quiet``: only errors are shown."""

    loaded: Loaded
    choice: StoreChoice
    verbosity: int
    quiet: bool

    @classmethod
    def begin(cls, context: click.Context, *, quiet: bool = False) -> Self:
        """Read the settings. Raise ``ConfigurationError``."""
        loaded = load(context.meta.get(CONFIG), os.environ)
        choice = choose_store(context.meta.get(STORE), os.environ, loaded)
        return cls(loaded, choice, context.meta.get(VERBOSE, 0), quiet)

    def notice(self, text: str) -> None:
        """A line on stderr, unless it is to be quiet."""
        if not self.quiet:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    @contextmanager
    def open_store(self, *, create: bool = False, writes: bool) -> Iterator[Store]:
        """The store, opened by its owner: root becomes that user first, for good.

        ``create``: make what is missing. ``writes``: say which store this is. Raise ``SyncdError``.
        """
        path = self.choice.path
        owner = decide(owner_of_store(path), path=path, euid=os.geteuid())
        if owner is not None:
            become(owner)
        settings = self.loaded.settings
        with Store.open(path, create=create, allow_network_filesystem=settings.allow_network_filesystem) as store:
            if writes:
                self.say_where(as_user=owner.name if owner else None)
            for text in store.notices:
                self.notice(f"warning: {text}")
            yield store

    def say_where(self, *, as_user: str | None = None) -> None:
        """Which store this command writes to, and why this one."""
        user = f", as {as_user}" if as_user else ""
        self.notice(f"store: {self.choice.path} ({self.choice.origin}){user}")
