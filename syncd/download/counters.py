"""What a fetch is at and what it did so far, for whoever shows it."""

from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """What a fetch is at."""

    CHECKING = "checking"  # hashing what the journal claims
    FETCHING = "fetching"


@dataclass(slots=True)
class Counters:
    """What a fetch did so far. Bytes."""

    received: int = 0
    retries: int = 0
    trouble: str | None = None
