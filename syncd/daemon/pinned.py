"""What the daemon knows of pins: who has a model pinned to what, and which model is something else."""

from collections.abc import Iterable

from syncd.api.pinned import PinsInfo, drifts
from syncd.daemon.inventory import Count
from syncd.daemon.loaded import Loaded
from syncd.jobs.pins import Pin, drift
from syncd.store.holds import Hold
from syncd.text import printable


def pins_info(loaded: Loaded, holds: Iterable[Hold], count: Count) -> PinsInfo | None:
    """How the store stands to the pins file and to what rollbacks have pinned (pure); None where nothing is pinned."""
    path = loaded.pins.path
    by_file = [(pin, f"the pins file {path}") for pin in loaded.pins.models.values()]
    by_hand = [(Pin(hold.name, hold.manifest), hold.by) for hold in holds if loaded.pins.of(hold.name) is None]
    if path is None and not by_hand:
        return None
    published = {one.name.folded: one.digest for one in count.models}
    return PinsInfo(
        file=None if path is None else printable(str(path), limit=4096),
        models=len(by_file) + len(by_hand),
        drift=drifts(drift([*by_file, *by_hand], published)),
    )
