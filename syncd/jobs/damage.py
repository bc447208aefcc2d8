"""What is wrong with a blob that models need: what a scrub finds, and what a repair mends."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from syncd.errors import IntegrityError
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.root import Store


class DamageKind(StrEnum):
    """How a blob differs from what its name says."""

    MISSING = "missing"
    WRONG_SIZE = "wrong_size"
    WRONG_BYTES = "wrong_bytes"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged blob. ``models``: those that name it. ``detail``: for people.

    ``chunks``: the indices (``oci.chunks``) that are wrong, ascending, all others having been seen to be right; None:
    nobody knows which, since there was no map, or not one that could be believed. The record of a damaged blob stays
    with its map, and condemns the file (``records.Record.condemned``): a repair compares by it.
    """

    blob: Descriptor
    kind: DamageKind
    chunks: tuple[int, ...] | None
    models: tuple[ModelName, ...]
    detail: str


def users_now(store: Store, blob: Descriptor, names: Iterable[ModelName]) -> tuple[ModelName, ...]:
    """Those of ``names`` that name the blob even now: others were replaced or removed meanwhile. Blocks."""
    found = []
    for name in names:
        try:
            manifest = store.models.read(name)
        except IntegrityError:
            continue  # what is no manifest names nothing; a verification and a doctor tell of it as that
        if manifest and any((one.digest, one.size) == (blob.digest, blob.size) for one in manifest.blobs):
            found.append(name)
    return tuple(found)
