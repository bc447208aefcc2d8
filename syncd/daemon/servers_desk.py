"""What operations, and collections, are told of the servers that read the store."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from syncd.daemon.fleet import Fleet
from syncd.daemon.rollout import Rollouts
from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DaemonServers:
    """Implements ``api.operation.ServersDesk``."""

    fleet: Fleet
    rollouts: Rollouts

    def loaded(self) -> frozenset[Digest]:
        """The manifests under which any server has something in its memory, as of the last looks that told."""
        return self.fleet.loaded()

    def busy(self) -> tuple[str, ...]:
        """Why no blob may go right now, in sentences: servers start or reload, or nobody knows what they have loaded.

        An hour has passed since a blob's last reference when it goes: what was loaded from it was loaded before that,
        and shows in the last look, if that told anything.
        """
        return (*self.rollouts.under_way(), *self.fleet.unsettled())

    async def replaced(self, names: Iterable[ModelName]) -> None:
        """The weights of these lie in another file now, under the same digest: who has the old one loaded loads anew.

        A server maps the file that it loads, and keeps that one's bytes for as long; one that could not read it may
        remember that until the model is loaded anew. A failure is told, and ends nothing.
        """
        for name in names:
            failing = self.fleet.mended(name)
            try:
                await self.rollouts.renew(name, failing)
            except SyncdError as error:
                log.warning("repair.not_reloaded", name=str(name), error=error.message)
            self.fleet.published(name)
