"""A server that gives each connection 20 MB/s: how much of what the connections could carry a pull gets."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import cold
from benchmarks.figures import MB, Goal, Section, size_text
from benchmarks.registries import nginx, paced, reference
from benchmarks.world import Model, World
from syncd.download.means import FetchSettings

_RATE = 20 * MB
_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class _Found:
    """Seconds of wall time that syncd and the floor took from one throttled server."""

    how: str
    syncd: float
    floor: float


def measure(world: World) -> Iterator[Section]:
    """Once with nginx's own throttle, once with every connection paced from its first byte on."""
    world.require(2 * world.size)
    with world.model("big", world.size) as model:
        with nginx(world, model, rate=_RATE) as host:
            found = [_both(world, model, host, "nginx's `limit_rate`")]
        with nginx(world, model, rate=None) as upstream, paced(upstream, _RATE) as host:
            found.append(_both(world, model, host, "each connection paced"))
    yield _section(world, found)


def _both(world: World, model: Model, host: str, how: str) -> _Found:
    with world.fresh("target") as store:
        syncd = world.timed(world.syncd("pull", reference(host, model), "--store", store, "--json"))
    with world.fresh("target") as target:
        target.mkdir()
        floor = cold.floor(world, model, host, target)
    world.say(f"{how}: {syncd:.2f} s, the floor {floor:.2f} s")
    return _Found(how, syncd, floor)


def _section(world: World, found: list[_Found]) -> Section:
    connections = FetchSettings().connections

    def share(seconds: float) -> float:
        return world.size / seconds / (connections * _RATE)

    return Section(
        title=f"nginx throttled to {_RATE // MB} MB/s per connection, {size_text(world.size)}",
        goals=[
            Goal(
                f"at least {_SHARE} of {connections} x {_RATE // MB} MB/s, {one.how}",
                f"{share(one.syncd):.2f}",
                share(one.syncd) >= _SHARE,
            )
            for one in found
        ],
        columns=("throttle", "client", "seconds", "MB/s", "share"),
        rows=[
            (one.how, client, f"{seconds:.2f}", f"{world.size / seconds / MB:.0f}", f"{share(seconds):.2f}")
            for one in found
            for client, seconds in (("syncd pull", one.syncd), ("floor", one.floor))
        ],
        notes=(
            "Over the whole process's wall time, its start and the publishing included.",
            "The floor is there to show what a server gives: nginx's `limit_rate` counts per request, by the second.",
            "Paced: nginx behind a relay that hands out each connection's bytes evenly, 200 kB every 10 ms.",
        ),
    )
