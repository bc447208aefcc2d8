"""What every command begins with: the settings, the store that is meant, and the user who may write to it."""

import concurrent.futures.thread  # noqa: F401 - see below
import encodings.idna  # noqa: F401 - see below
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import click

from syncd.cli.options import CONFIG, STORE, VERBOSE
from syncd.daemon.loaded import Loaded, load
from syncd.daemon.places import BY_OPTION, StoreChoice, choose_store
from syncd.errors import ConfigurationError, NotFoundError
from syncd.store.owner import become, decide, how_to_make, may_make, owner_of_store, service_user
from syncd.store.root import Store
from syncd.text import printable

# Python imports these two when it first needs them. By then root may have become the store's owner, who may not be able
# to read a Python that lies in root's home.


@dataclass(frozen=True, slots=True)
class Session:
    """One call of one command. ``quiet``: only errors are shown. ``fault``: why the settings are mere defaults."""

    loaded: Loaded
    choice: StoreChoice
    verbosity: int
    quiet: bool
    fault: ConfigurationError | None = None

    @classmethod
    def begin(cls, context: click.Context, *, quiet: bool = False, lenient: bool = False) -> Self:
        """Read the settings. Raise ``ConfigurationError``.

        ``lenient``: settings that cannot be used become ``fault``: a daemon that runs on older ones can still be asked.
        """
        environ: Mapping[str, str] = os.environ
        fault = None
        try:
            loaded = load(context.meta.get(CONFIG), environ)
        except ConfigurationError as error:
            if not lenient:
                raise
            # Which store those settings name is not known: what ranks below them is not what is meant.
            environ = {key: value for key, value in environ.items() if key != "OLLAMA_MODELS"}
            loaded, fault = Loaded(), error
        choice = choose_store(context.meta.get(STORE), environ, loaded)
        return cls(loaded, choice, context.meta.get(VERBOSE, 0), quiet, fault)

    def of_its_store(self) -> Self:
        """The same, without the models and pins that settings have for their own store, if ``--store`` is another."""
        theirs = self.loaded.settings.store
        if (
            self.choice.origin != BY_OPTION
            or theirs is None
            or os.path.realpath(theirs) == os.path.realpath(self.choice.path)
        ):
            return self
        return replace(self, loaded=self.loaded.for_another_store())

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
        its, euid = owner_of_store(path), os.geteuid()
        owner = decide(its, path=path, euid=euid)
        if owner is not None:
            become(owner)
        settings = self.loaded.settings
        try:
            opened = Store.open(path, create=create, allow_network_filesystem=settings.allow_network_filesystem)
        except NotFoundError as error:
            service = service_user() if self.choice.asked else None
            hint = how_to_make(its, service, euid=euid, may_write=may_make(path))
            raise NotFoundError(error.message, hint=hint) from error
        with opened as store:
            if writes:
                self.say_where(as_user=owner.name if owner else None)
            for text in store.notices:
                self.notice(f"warning: {text}")
            store.leases.lifetime = settings.download.keep_partials
            yield store

    def say_where(self, *, as_user: str | None = None, daemon: int | None = None, path: str | None = None) -> None:
        """Which store this command writes to, and why this one.

        ``as_user``: who it has become for that; ``daemon``: the pid of who does it instead, in the store at ``path``.
        """
        if daemon is None:
            user = f", as {as_user}" if as_user else ""
            self.notice(f"store: {self.choice.path} ({self.choice.origin}){user}")
        else:
            origin = f" ({self.choice.origin})" if self.choice.asked else ""
            self.notice(f"store: {path}{origin}, through the daemon (pid {daemon})")
