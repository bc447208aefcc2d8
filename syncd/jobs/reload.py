"""Reloading (pure): what a new version means to each server, in which steps and in which order.

One rename shows a version to every server that reads the store. What is left to do is to let go of the old weights, to
load the new ones where the old ones were in use, and to see that each server really serves them (design, "Servers").
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from syncd.errors import InvalidNameError
from syncd.instances.model import Instance, ReloadWay
from syncd.instances.ollama import Loaded
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName


class Change(StrEnum):
    """What a publication changed."""

    NEW = "new"  # there was nothing under the name: seen at the next request
    WEIGHTS = "weights"  # a server may hold the old ones, in a runner that its name does not reach any more
    TEXT = "text"  # template, parameters, system, license: in force at the next request
    ASKED = "asked"  # nothing: somebody wants it loaded anew, or proved


class Step(StrEnum):
    """What is done to a server (the ``action`` of ``syncd_reloads_total``)."""

    UNLOAD = "unload"
    LOAD = "load"
    RESTART = "restart"
    SIGNAL = "signal"
    EXEC = "exec"
    PROVE = "prove"


RESTARTS = {ReloadWay.RESTART: Step.RESTART, ReloadWay.SIGNAL: Step.SIGNAL, ReloadWay.EXEC: Step.EXEC}
"""The ways after which a server begins anew, with nothing loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A version that servers are to serve.

    ``outdated``: manifest digests (bare hex, as ``/api/ps`` has them) under which a server may hold other weights.
    ``warm``: instances that had the model loaded right before the publication. ``keep_warm``: those on which it is to
    be loaded in any case. ``only_prove``: nothing is reloaded.
    """

    name: ModelName
    digest: Digest
    change: Change
    outdated: frozenset[str] = frozenset()
    warm: frozenset[str] = frozenset()
    keep_warm: frozenset[str] = frozenset()
    only_prove: bool = False


@dataclass(frozen=True, slots=True)
class ModelSteps:
    """What is done for one model on one server, before it is proved."""

    update: Update
    unload: bool
    load: bool


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """What is done to one server: begun anew at most once, whatever number of models that is for."""

    restart: Step | None
    models: tuple[ModelSteps, ...]


def change_of(old: Manifest | None, new: Manifest) -> Change:
    """What ``new`` changes; weights are a runner's key (ollama ``server/sched.go`` ``schedulerModelKey``)."""
    if old is None:
        return Change.NEW
    return Change.TEXT if _weights(old) == _weights(new) else Change.WEIGHTS


def outdated(history: Iterable[Manifest], new: Manifest) -> frozenset[str]:
    """The digests in ``history`` behind which there are other weights than those of ``new``: bare hex."""
    return frozenset(old.digest.hex for old in history if _weights(old) != _weights(new))


def to_unload(instances: Iterable[Instance], change: Change) -> tuple[Instance, ...]:
    """The servers that are to let go of the old weights by name, right before that name means the new ones."""
    if change is not Change.WEIGHTS:
        return ()
    return tuple(one for one in instances if one.reload is ReloadWay.AUTO)


def plan(instance: Instance, updates: Sequence[Update], loaded: Sequence[Loaded]) -> ServerPlan:
    """The steps for ``updates`` on a server that has this loaded; without old weights there it does not begin anew."""
    restart = RESTARTS.get(instance.reload)
    if not any(_begins_anew(update, loaded) for update in updates):
        restart = None
    return ServerPlan(restart, tuple(_model_steps(instance, update, loaded, restart) for update in updates))


def holds(name: ModelName, loaded: Iterable[Loaded]) -> bool:
    """Whether the model is loaded, in whatever version."""
    return any(_is(one.name, name) for one in loaded)


def stale(update: Update, loaded: Iterable[Loaded]) -> Loaded | None:
    """The runner that still has other weights than the update's, if there is one: the one that stays longest."""
    old = [one for one in loaded if one.digest in update.outdated]
    return max(old, key=lambda one: float("inf") if one.expires is None else one.expires, default=None)


def waves(order: Sequence[str], at_once: int, *, canary: bool) -> Iterator[tuple[str, ...]]:
    """Who is taken together: never more than ``at_once``. ``canary``: the first goes alone, ahead of the others."""
    rest = list(order)
    if canary and rest:
        yield (rest.pop(0),)
    for start in range(0, len(rest), at_once):
        yield tuple(rest[start : start + at_once])


def in_order(instances: Iterable[Instance], fit: Collection[str]) -> tuple[str, ...]:
    """The names in the order of the settings, the ``fit`` first: they tell a bad version from a bad server."""
    names = [one.name for one in instances]
    return tuple(sorted(names, key=lambda name: name not in fit))


def lists(update: Update, tags: Iterable[tuple[str, str]]) -> bool:
    """Whether a server with these tags (name, bare hex digest) would serve this very version."""
    return any(digest == update.digest.hex and _is(name, update.name) for name, digest in tags)


def _weights(manifest: Manifest) -> frozenset[Digest]:
    return frozenset(layer.digest for layer in manifest.weights)


def _begins_anew(update: Update, loaded: Sequence[Loaded]) -> bool:
    if update.only_prove:
        return False
    return update.change is Change.ASKED or (update.change is Change.WEIGHTS and stale(update, loaded) is not None)


def _model_steps(instance: Instance, update: Update, loaded: Sequence[Loaded], restart: Step | None) -> ModelSteps:
    changed = update.change in {Change.WEIGHTS, Change.ASKED} and not update.only_prove
    held = holds(update.name, loaded)
    warm = held or instance.name in update.warm
    by_way: dict[ReloadWay, Callable[[], bool]] = {
        ReloadWay.AUTO: lambda: warm,
        ReloadWay.PRELOAD: lambda: True,
        ReloadWay.NONE: lambda: False,
    }
    load = changed and by_way.get(instance.reload, lambda: restart is not None)()
    unload = changed and update.change is Change.ASKED and instance.reload is ReloadWay.AUTO and held
    return ModelSteps(update, unload, load or (not update.only_prove and instance.name in update.keep_warm))


def _is(text: str, name: ModelName) -> bool:
    """Whether a server means ``name`` by ``text``."""
    try:
        return ModelName.parse(text).folded == name.folded
    except InvalidNameError:
        return False
