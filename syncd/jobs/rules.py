"""What the settings say of jobs, as values: here and in the daemon made by ``daemon.rules``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``floor``: bytes of free space that jobs leave to others."""

    floor: int
