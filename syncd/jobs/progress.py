"""What a pull says of itself while it runs and when it ends: frozen values, no words for people and no wire format."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import Reference


class Phase(StrEnum):
    """Where a pull stands."""

    WAITING = "waiting"  # another process pulls this name; the blobs show its progress
    RESOLVING = "resolving"  # asking the registry for the manifest
    FETCHING = "fetching"  # blobs are being checked, waited for, fetched
    PUBLISHING = "publishing"  # every blob is in; the manifest goes in
    DONE = "done"


class BlobState(StrEnum):
    """Where one blob stands."""

    PENDING = "pending"  # nothing known yet
    WAITING = "waiting"  # another process fetches it; ``done`` is its progress
    VERIFYING = "verifying"  # bytes already on disk are being hashed; ``done`` counts those
    FETCHING = "fetching"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class BlobProgress:
    """``done``: bytes in place (of ``blob.size``). ``fetched``: bytes that this pull took from the network for it.

    ``trouble``: the last broken or refused connection, while it is being fetched.
    """

    blob: Descriptor
    state: BlobState
    done: int
    fetched: int
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One moment of one pull. ``retries`` counts broken or refused connections so far; ``trouble`` is the last one.

    ``abandoned``: bytes from the network for blobs of a manifest that the tag has left meanwhile.
    """

    reference: Reference
    phase: Phase
    digest: Digest | None = None
    blobs: tuple[BlobProgress, ...] = ()
    retries: int = 0
    trouble: str | None = None
    abandoned: int = 0


@dataclass(frozen=True, slots=True)
class PullOutcome:
    """How a pull ended well. Sizes in bytes, ``seconds`` of wall time.

    ``current``: the tag already held this digest and every blob was there. ``fetched_bytes`` crossed the network for
    this pull (retries included); ``found_bytes`` were in the store already, whoever put them there.
    ``moved_back``: when (seconds since the epoch) this digest was published before, if the registry's tag has
    moved back to it.
    """

    reference: Reference
    digest: Digest
    current: bool
    size: int
    blobs: int
    fetched_blobs: int
    fetched_bytes: int
    found_bytes: int
    seconds: float
    moved_back: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """All blobs of a pull together, in bytes."""

    size: int
    done: int
    fetched: int

    @classmethod
    def of(cls, progress: PullProgress) -> Self:
        """The sums; ``done`` never exceeds ``size``."""
        whole = sum(one.blob.size for one in progress.blobs)
        done = min(whole, sum(one.done for one in progress.blobs))
        return cls(whole, done, progress.abandoned + sum(one.fetched for one in progress.blobs))

    @property
    def percent(self) -> int:
        """Of ``size``, rounded down, so that 100 means all."""
        return 100 * self.done // self.size if self.size else 0
