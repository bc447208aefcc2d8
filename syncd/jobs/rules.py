"""What the settings say of jobs, as values: here and in the daemon made by ``daemon.rules``."""

from dataclasses import dataclass

from syncd.instances.model import Instance
from syncd.jobs.collection import CollectRules
from syncd.jobs.policy import NO_POLICY, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownServers:
    """The servers of the settings. ``discovered``: Docker tells of more. ``patience``: seconds for one answer."""

    instances: tuple[Instance, ...] = ()
    discovered: bool = False
    patience: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``floor``: bytes of free space that jobs leave to others. ``policy``: which models may come in.

    ``collect``: what collections leave. ``servers``: who is asked what it has loaded where no daemon knows.
    """

    floor: int
    policy: Policy = NO_POLICY
    collect: CollectRules = CollectRules()  # noqa: RUF009 - frozen
    servers: KnownServers = KnownServers()  # noqa: RUF009 - frozen
