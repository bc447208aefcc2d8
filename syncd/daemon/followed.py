"""A model of the settings as the daemon follows it, and the clocks by which that is done."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from syncd.daemon.desired import Action, Moment, Refused, Seen, Standing, State, Wait, Wish, decide
from syncd.daemon.settings import ModelSettings
from syncd.errors import SyncdError
from syncd.jobs.restore import Condition, examine
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference
from syncd.store.holds import Hold
from syncd.store.root import Store


def _second_of_day(epoch: float) -> float:
    local = time.localtime(epoch)
    return local.tm_hour * 3600.0 + local.tm_min * 60.0 + local.tm_sec


@dataclass(frozen=True, slots=True)
class Times:
    """The clocks, and chance: what is done now and then is not done by all hosts at once.

    ``wall``: seconds since the epoch. ``second``: of such a time, since local midnight. ``random``: from 0 up to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    second: Callable[[float], float] = _second_of_day
    random: Callable[[], float] = random.random

    def now(self) -> Moment:
        """What all of them show."""
        epoch = self.wall()
        return Moment(self.monotonic(), epoch, self.second(epoch))


@dataclass(slots=True, eq=False)
class Followed:
    """``wanted``: the settings still name it. ``doing``: what tasks are at.

    ``saved``: the standing that the memory has. ``published``: what the reconcile itself published last. ``blobs``:
    what the model should consist of. ``refused``: as ``desired.decide`` takes it.
    """

    wish: Wish
    standing: Standing
    saved: Standing | None
    published: Digest | None
    refused: Refused
    seen: Seen | None = None
    blobs: frozenset[Digest] = frozenset()
    wanted: bool = True
    doing: set[type[Action]] = field(default_factory=set)

    def next(self, moment: Moment, *, pulled: bool) -> Action:
        """What to do."""
        if not self.wanted:
            return Wait(float("inf"), State.UNKNOWN)
        return decide(self.wish, self.seen, self.standing, moment, pulled=pulled, refused=self.refused)

    def take_in(self, found: Condition) -> None:
        """What a look at the store has found."""
        self.blobs = found.blobs
        self.seen = Seen(
            digest=found.digest,
            expected=found.expected.manifest.digest if found.expected else None,
            broken=found.broken,
            restorable=found.restorable,
            noted=found.expected is None or found.expected.noted,
            older=found.expected is not None and found.expected.older,
            size=found.size,
            moved_back=found.moved_back,
        )
        if self.standing.gone is not None and self.seen.intact(self.wish.pin):
            self.standing = replace(self.standing, gone=None)


def wish_of(model: ModelSettings, hold: Hold | None = None, barred: str | None = None) -> Wish:
    """What an entry of the settings asks for. ``hold``: what somebody holds the tag at; the settings' own pin counts.

    ``barred``: why a model of this name is not to be here.
    """
    update, reference, held = model.update, model.name, None
    if hold is not None and reference.digest is None:
        reference = Reference(reference.name, hold.manifest.digest)
        held = f"pinned by {hold.by}; 'syncd unpin {reference.name}' releases it"
    return Wish(reference, update.every, update.window, update.apply, held, barred)


def look_at(store: Store, wanted: list[tuple[ModelName, Digest | None]]) -> list[Condition | SyncdError]:
    """What the store has under these names, with what each is pinned to; an error where that cannot be told. Blocks."""
    found: list[Condition | SyncdError] = []
    try:
        store.revive()
    except SyncdError as error:
        return [error for _ in wanted]
    for name, pin in wanted:
        try:
            found.append(examine(store, name, pin))
        except SyncdError as error:
            found.append(error)
    return found
