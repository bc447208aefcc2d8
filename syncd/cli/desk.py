"""This process's own desk: what operations work with where no daemon runs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from syncd.cli.session import Session
from syncd.daemon.access import Access
from syncd.daemon.rules import rules_of
from syncd.errors import SyncdError
from syncd.jobs.mend import Mending
from syncd.jobs.pull import PullMeans
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store


@dataclass(frozen=True, slots=True)
class OwnDesk:
    """Implements ``api.operation.Desk``. ``access`` was read before root became somebody else; or why not."""

    session: Session
    store: Store
    access: Access | SyncdError
    servers: None = None
    by: str = "this command"

    @property
    def rules(self) -> Rules:
        """What the settings say of it."""
        return rules_of(self.session.loaded)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    @property
    def scrubs(self) -> ScrubBook:
        """As the store has them."""
        return ScrubBook(self.store, clock=time.time, monotonic=time.monotonic)

    def wanted(self, name: ModelName) -> str | None:
        """Where the settings want this model."""
        return self.session.loaded.where(name)

    @asynccontextmanager
    async def pulling(self) -> AsyncIterator[PullMeans]:
        """What a pull works with."""
        from syncd.daemon.ways import Ways  # noqa: PLC0415 - what fetches nothing does not pay for aiohttp

        if isinstance(self.access, SyncdError):
            raise self.access
        async with Ways(self.store, _nobody_waits) as ways:
            await ways.renew(self.session.loaded, self.access)
            async with ways.used() as means:
                yield means

    def changed(self, *names: ModelName) -> None:
        """Nobody here has to hear of it: a daemon that starts looks at everything."""

    def mended(self, ended: Mending) -> None:
        """Likewise."""


async def _nobody_waits(_name: ModelName, _old: Manifest | None, _new: Manifest) -> None:
    """No server is known, so none unloads anything before a manifest is replaced."""
