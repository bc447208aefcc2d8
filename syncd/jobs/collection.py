"""What a collection may take, and what keeps the rest; pure. Sizes are bytes, times seconds since the epoch."""

from collections.abc import Iterable
from dataclasses import dataclass

from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import Reference
from syncd.store.leases import LeaseState
from syncd.store.models import BrokenModel
from syncd.store.sweep import HeldBlob, QuarantinedFile, StagedFile

GRACE_SECONDS = 3600.0
"""A blob stays for an hour after its last reference: a server may have resolved its path and still wait in a queue."""

QUARANTINE_SECONDS = 30 * 86400.0
"""How long what is in quarantine stays there, unless the settings say otherwise."""

NO_SERVERS_KNOWN = "no daemon runs and the settings name no servers: what servers have loaded is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRules:
    """``keep_previous``: versions of a published model, beside the one published, whose blobs stay.

    ``quarantine_age``: seconds for which what is in quarantine stays. ``wanted``: the models of the settings, with
    their pins: where somebody took one away, what it is put back from stays.
    """

    keep_previous: int = 0
    quarantine_age: float = QUARANTINE_SECONDS
    wanted: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memories:
    """What servers have in memory. ``loaded``: by the manifests that it was loaded under.

    ``doubts``: why blobs must stay that nobody is known to have loaded, in sentences. ``notices``: what is not known
    and keeps nothing. ``insisted``: an operator wants doubts to count for nothing.
    """

    loaded: frozenset[Digest] = frozenset()
    doubts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    insisted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """What a collection would take: blobs, what is staged, and what was in quarantine for long enough.

    With anything ``broken`` it takes nothing, as Ollama: who knows what that names. With ``doubts`` it takes no blob:
    ``held_back`` would go but for them.
    """

    blobs: tuple[HeldBlob, ...] = ()
    staged: tuple[StagedFile, ...] = ()
    quarantined: tuple[QuarantinedFile, ...] = ()
    broken: tuple[BrokenModel, ...] = ()
    held_back: tuple[HeldBlob, ...] = ()
    doubts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def freed(self) -> int:
        """Bytes that it gives back."""
        taken = (self.blobs, self.staged, self.quarantined)
        return sum(one.size for kind in taken for one in kind)

    @property
    def freed_later(self) -> int:
        """Bytes of what is held back."""
        return sum(blob.size for blob in self.held_back)


def kept_by(leases: Iterable[LeaseState]) -> frozenset[Digest]:
    """The blobs that leases keep."""
    return named_by(lease.manifest for lease in leases if lease.keeps)


def named_by(manifests: Iterable[Manifest]) -> frozenset[Digest]:
    """All blobs of these manifests."""
    return frozenset([blob.digest for manifest in manifests for blob in (*manifest.layers, manifest.config)])


def ripe(blobs: Iterable[HeldBlob], now: float) -> tuple[HeldBlob, ...]:
    """Those that nobody has needed for an hour."""
    return tuple(blob for blob in blobs if now - blob.modified > GRACE_SECONDS)


def left_behind(staged: Iterable[StagedFile], kept: frozenset[Digest], now: float) -> tuple[StagedFile, ...]:
    """What pulls left for good: no lease keeps it (``kept``), and nobody has written to it for an hour."""
    files = tuple(staged)
    # A partial and its journal go together: either one's mtime speaks for both.
    newest: dict[Digest | str, float] = {}
    for file in files:
        key = file.digest or file.name
        newest[key] = max(newest.get(key, 0.0), file.modified)
    return tuple(
        file for file in files if file.digest not in kept and now - newest[file.digest or file.name] > GRACE_SECONDS
    )


def outlived(quarantined: Iterable[QuarantinedFile], age: float, now: float) -> tuple[QuarantinedFile, ...]:
    """What has been in quarantine for longer than ``age`` seconds."""
    return tuple(file for file in quarantined if now - file.since > age)
