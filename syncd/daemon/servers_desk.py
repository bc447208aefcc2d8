"""What operations, and collections, are told of the servers that read the store."""

from dataclasses import dataclass

from syncd.daemon.fleet import Fleet
from syncd.daemon.rollout import Rollouts
from syncd.oci.digest import Digest


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
