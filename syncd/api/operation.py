"""Operations: a command's work, described once, and done in the command's own process or by the daemon.

Each has a request, lines that it tells on the way, and a last line. Here they are handed over as they are; through the
daemon they are NDJSON over ``POST /syncd/v1/<path>``. The output is the same, since there is one ``run``.
"""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from syncd.jobs.mend import Mending
from syncd.jobs.pull import PullMeans
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.root import Store

A = TypeVar("A", bound=msgspec.Struct)
E = TypeVar("E", bound=msgspec.Struct)

Tell = Callable[[msgspec.Struct], None]
"""Hears of a line. It takes no time, and raises nothing."""


class ServersDesk(Protocol):
    """What the daemon knows of the servers that read the store."""

    def loaded(self) -> frozenset[Digest]:
        """The manifests under which any server has something in its memory, as of the last looks."""

    def busy(self) -> tuple[str, ...]:
        """Why no blob may go right now that no server is known to have loaded, in sentences.

        Servers start or reload, or nobody knows what they have loaded.
        """


class Desk(Protocol):
    """What an operation works with. Whatever can fail raises ``SyncdError``."""

    @property
    def store(self) -> Store:
        """The store, open, as its owner."""

    @property
    def rules(self) -> Rules:
        """What the settings say of it now."""

    @property
    def by(self) -> str:
        """Who asks, in words for logs."""

    @property
    def servers(self) -> ServersDesk | None:
        """None: no daemon runs, and nothing is known of any."""

    def now(self) -> float:
        """Seconds since the epoch."""

    @property
    def scrubs(self) -> ScrubBook:
        """Where scrubs write how far they are, and what they found."""

    def wanted(self, name: ModelName) -> str | None:
        """``FILE:LINE`` of the settings that want this model; None: they do not."""

    def pulling(self) -> AbstractAsyncContextManager[PullMeans]:
        """What a pull works with, open while it is entered."""

    def changed(self, *names: ModelName) -> None:
        """These names hold something else than before, or nothing: status, servers and reconcile look again."""

    def mended(self, ended: Mending) -> None:
        """A damaged blob was mended, or could not be."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[A, E]):
    """``path``: below ``/syncd/v1/``. ``lines``: by their ``event``, what it tells on the way.

    ``moments``: those of them of which only the newest counts. ``writes``: whether the store is written to, so that the
    command says which one it is. A caller who goes away cancels ``run``, and that must be safe at any moment.
    """

    path: str
    asked: type[A]
    lines: Mapping[str, type[msgspec.Struct]]
    ended: tuple[str, type[E]]
    run: Callable[[Desk, A, Tell], Coroutine[None, None, E]]
    writes: Callable[[A], bool]
    moments: tuple[type[msgspec.Struct], ...] = ()
