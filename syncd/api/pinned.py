"""What status says of pins."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # who reads a status waits for nothing else
    from syncd.jobs.pins import Drift


class PinDrift(msgspec.Struct, frozen=True):
    """A model that is not what it is pinned to. ``published``: what it is; null: nothing. ``by``: who has it pinned."""

    name: str
    pinned: str
    published: str | None
    by: str


class PinsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the pins file and rollbacks have pinned. ``file``: null if the settings name none. ``models``: how many."""

    file: str | None
    models: int
    drift: tuple[PinDrift, ...]


def drifts(found: "Iterable[Drift]") -> tuple[PinDrift, ...]:
    """Drift as others see it."""
    return tuple(
        PinDrift(str(one.name), str(one.pinned), str(one.published) if one.published else None, one.by) for one in found
    )
