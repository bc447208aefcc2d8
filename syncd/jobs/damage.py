"""What is wrong with a blob that models need: what a scrub finds, and what a repair mends."""

from dataclasses import dataclass
from enum import StrEnum

from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName


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
    nobody knows which, since there was no map, or not one that could be believed.
    """

    blob: Descriptor
    kind: DamageKind
    chunks: tuple[int, ...] | None
    models: tuple[ModelName, ...]
    detail: str
