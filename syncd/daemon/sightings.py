"""What looks at containers mean: which instances there are, which have left, and which were started anew. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TypeAlias

from syncd.instances.containers import Container
from syncd.instances.labels import labelled
from syncd.instances.model import Instance
from syncd.text import printable

LEAVE_AFTER = 10.0  # seconds for which a container that was stopped or removed may come back: a restart stops it, too

_OFF = frozenset({"", "0", "f", "false"})  # all else is on (ollama envconfig.Bool)

Start: TypeAlias = tuple[str, float | None]  # a container's id, and when it was started


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known after a look. ``faults``: sentences on labels and on containers that the settings name in vain.

    ``starts``: by the instance's name. ``leaving``: by name, the moment (monotonic seconds) at which one will be gone.
    ``restarted``: names of those that were started anew since the look before.
    """

    instances: tuple[Instance, ...] = ()
    faults: tuple[str, ...] = ()
    starts: Mapping[str, Start] = field(default_factory=dict)
    leaving: Mapping[str, float] = field(default_factory=dict)
    restarted: tuple[str, ...] = ()

    @property
    def next_leave(self) -> float | None:
        """When somebody will be gone, if nothing happens."""
        return min(self.leaving.values(), default=None)

    def knows(self, container: str) -> bool:
        """Whether this id is that of a container that was seen."""
        return any(identity == container for identity, _ in self.starts.values())


def seen(
    before: Seen,
    marked: Iterable[Container],
    configured: Iterable[tuple[Instance, Container | None]],
    *,
    stopped: frozenset[str],
    now: float,
    store: PurePosixPath | None = None,
) -> Seen:
    """What is known after a look that found these.

    ``marked``: containers with the label. ``configured``: what the settings say, and its container if that is there.
    ``stopped``: ids of containers that somebody stopped on purpose. One that merely died stays an instance: it is down.
    ``store``: where it lies on the Engine's host; None: nobody knows.
    """
    named = list(configured)
    own = {container.id for _, container in named if container is not None}
    known = {identity for identity, _ in before.starts.values()}
    there = [
        one for one in marked if one.id not in own and (one.running or (one.id in known and one.id not in stopped))
    ]
    found = labelled(there, taken=[instance for instance, _ in named])
    by_name = {one.name: one for one in there}
    starts = {
        instance.name: _start(by_name[instance.container])
        for instance in found.instances
        if instance.container is not None
    }
    starts |= {instance.name: _start(container) for instance, container in named if container is not None}
    faults = [
        f"instance {instance.name}: Docker has no container {instance.container}"
        for instance, container in named
        if container is None
    ]
    if store is not None:
        followed = [one for one in there if one.id in {identity for identity, _ in starts.values()}]
        followed += [container for _, container in named if container is not None]
        faults += [fault for container in followed for fault in store_faults(container, store)]
    fresh = Seen(instances=found.instances, faults=(*found.faults, *faults), starts=starts)
    return _with_leavers(before, fresh, {instance.name for instance, _ in named}, now)


def _with_leavers(before: Seen, fresh: Seen, configured: set[str], now: float) -> Seen:
    """``fresh``, with those added that have just gone, and with what was started since ``before``."""
    present = {instance.name: instance for instance in fresh.instances}
    renamed = {identity for identity, _ in fresh.starts.values()}  # these go on under another name
    gone = [
        one
        for one in before.instances
        if one.name not in present and one.name not in configured and before.starts[one.name][0] not in renamed
    ]
    leaving = {one.name: before.leaving.get(one.name, now + LEAVE_AFTER) for one in gone}
    leaving = {name: moment for name, moment in leaving.items() if moment > now}
    present |= {one.name: one for one in gone if one.name in leaving}
    # The starts of those that may come back are remembered, so that this is known for a new start.
    remembered = {name: start for name, start in before.starts.items() if name in leaving or name in configured}
    restarted = [name for name, start in fresh.starts.items() if name in before.starts and before.starts[name] != start]
    return replace(
        fresh,
        instances=tuple(present[name] for name in sorted(present)),
        starts={**remembered, **fresh.starts},
        leaving=leaving,
        restarted=tuple(sorted(restarted)),
    )


def store_faults(container: Container, store: PurePosixPath) -> Iterator[str]:
    """What is wrong with how a server's container sees the store at ``store``, in sentences."""
    shown = f"container {printable(container.name, limit=64)}"
    seen_at = container.sees(store)
    if seen_at is None:
        yield f"{shown} does not see the store {store}: mount it, read-only"
        return
    place, read_only = seen_at
    if not read_only:
        yield f"{shown} can write to the store: mount it read-only"
    models = container.environment.get("OLLAMA_MODELS", "")
    if models and PurePosixPath(models) != place:
        yield f"{shown} sees the store at {place}, and has OLLAMA_MODELS={printable(models, limit=200)}"
    if container.environment.get("OLLAMA_NOPRUNE", "").lower() in _OFF:
        yield f"{shown} prunes the store when it starts: set OLLAMA_NOPRUNE=1"


def _start(container: Container) -> Start:
    return container.id, container.started
