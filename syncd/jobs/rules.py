"""What the settings say of jobs, as values: here and in the daemon made by ``daemon.rules``."""

from dataclasses import dataclass

from syncd.instances.model import Instance
from syncd.jobs.collection import CollectRules
from syncd.jobs.policy import NO_POLICY, Policy
from syncd.jobs.surroundings import Surroundings
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownServers:
    """The servers of the settings. ``discovered``: Docker tells of more. ``patience``: seconds for one answer."""

    instances: tuple[Instance, ...] = ()
    discovered: bool = False
    patience: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``floor``: bytes of free space that jobs leave to others. ``policy``: which models may come in.

    ``wanted``: the models of the settings, with their pins. ``collect``: what collections leave. ``servers``: who is
    asked what it has loaded where no daemon knows. ``around``: the world around the store.
    ``keep_unrepairable``: a model that nobody can mend stays published.
    """

    floor: int
    policy: Policy = NO_POLICY
    wanted: tuple[Reference, ...] = ()
    collect: CollectRules = CollectRules()  # noqa: RUF009 - frozen
    servers: KnownServers = KnownServers()
    around: Surroundings = Surroundings()  # noqa: RUF009 - frozen
    keep_unrepairable: bool = False

    def pin_of(self, name: ModelName) -> Digest | None:
        """What the settings pin a model to; None: they do not."""
        return next((one.digest for one in self.wanted if one.name.folded == name.folded), None)
