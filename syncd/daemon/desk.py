"""The daemon's own desk: what operations work with there."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from syncd.api.operation import ServersDesk
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.rules import rules_of
from syncd.daemon.ways import Ways
from syncd.jobs.mend import Mending
from syncd.jobs.pull import PullMeans
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.name import ModelName
from syncd.store.root import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonDesk:
    """Implements ``api.operation.Desk``."""

    store: Store
    settings: AppliedSettings
    ways: Ways
    servers: ServersDesk | None
    scrubs: ScrubBook
    guards: Callable[[ModelName], str | None]
    on_change: Callable[[tuple[ModelName, ...]], None]
    on_mending: Callable[[Mending], None]
    by: str

    @property
    def rules(self) -> Rules:
        """What the settings say of it now."""
        return rules_of(self.settings.current)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def wanted(self, name: ModelName) -> str | None:
        """Where the settings want this model."""
        return self.guards(name)

    def pulling(self) -> AbstractAsyncContextManager[PullMeans]:
        """What a pull works with."""
        return self.ways.used()

    def changed(self, *names: ModelName) -> None:
        """These names hold something else than before."""
        self.on_change(names)

    def mended(self, ended: Mending) -> None:
        """A damaged blob was mended, or could not be."""
        self.on_mending(ended)
