"""What ``migrate --json`` writes: ``plan`` (after the ``step`` that hashes), the other steps, and ``migrated``.

Each step begins with ``step``, and its events follow: ``adopt``, ``pull``, ``verify`` and ``reload`` write the same.
Shapes are kept as in ``api.events``.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from syncd.api.adoptions import Planned
from syncd.api.adoptions import planned as planned_adoption
from syncd.jobs.migrate import Quarantined
from syncd.jobs.migration import Plan, ServerWork
from syncd.text import printable

_PATH = 4096


class Misfit(msgspec.Struct, frozen=True):
    """What goes to the quarantine. ``path``: below the models folder. ``replaced``: when a whole one is there."""

    path: str
    what: str
    replaced: bool


class PlannedModel(msgspec.Struct, frozen=True):
    """A model to pull, and why."""

    name: str
    why: str


class PlannedServer(msgspec.Struct, frozen=True):
    """A server, and the models that it is to load anew and to prove."""

    server: str
    reload: tuple[str, ...]
    prove: tuple[str, ...]


class MigrationPlanned(msgspec.Struct, frozen=True):
    """What a migration does, or after ``dry_run`` would do. ``stays``: what it cannot put right. ``daemon``: one runs.

    Without a daemon, ``servers`` is empty: they are not touched.
    """

    event: Literal["plan"]
    dry_run: bool
    store: str
    daemon: bool
    quarantine: tuple[Misfit, ...]
    adopt: Planned
    pull: tuple[PlannedModel, ...]
    servers: tuple[PlannedServer, ...]
    stays: tuple[str, ...]


class MigrationStep(msgspec.Struct, frozen=True):
    """A step begins."""

    event: Literal["step"]
    step: Literal["hash", "quarantine", "adopt", "pull", "verify", "servers"]


class MovedAway(msgspec.Struct, frozen=True):
    """Something went to the quarantine. ``taken``: moved; set aside (a whole one takes its place); left."""

    event: Literal["quarantined"]
    path: str
    what: str
    taken: str


class ModelOnServer(msgspec.Struct, frozen=True):
    """How a model stands on a server: a state of ``v1.InstanceModel``, or ``not tried``."""

    name: str
    state: str
    proved: bool
    reason: str | None


class MigratedServer(msgspec.Struct, frozen=True):
    """A server. ``up``: it answers; null: nobody has asked."""

    name: str
    url: str
    up: bool | None
    version: str | None
    error: str | None
    models: tuple[ModelOnServer, ...]


class Disk(msgspec.Struct, frozen=True):
    """Bytes on disk, of the store and the sources together. ``saved``: the sources lost, and nobody misses.

    ``savable``: the sources still have, and the store has too. ``quarantine``: of ``after``, what lies there.
    """

    before: int
    after: int
    saved: int
    savable: int
    quarantine: int


class Migrated(msgspec.Struct, frozen=True):
    """The end. ``models``: that are published. ``servers``: null where no daemon runs, and none was touched."""

    event: Literal["migrated"]
    store: str
    models: tuple[str, ...]
    servers: tuple[MigratedServer, ...] | None
    disk: Disk
    seconds: float


def planned(
    plan: Plan, servers: Sequence[ServerWork], *, store: str, daemon: bool, dry_run: bool, delete: bool
) -> MigrationPlanned:
    """The event for a plan."""
    return MigrationPlanned(
        event="plan",
        dry_run=dry_run,
        store=printable(store, limit=_PATH),
        daemon=daemon,
        quarantine=misfits(plan),
        adopt=planned_adoption(plan.adoption, dry_run=dry_run, delete=delete),
        pull=tuple(PlannedModel(str(pull.reference), pull.why) for pull in plan.pulls),
        servers=tuple(
            PlannedServer(one.server, tuple(map(str, one.reload)), tuple(map(str, one.prove))) for one in servers
        ),
        stays=tuple(printable(one) for one in plan.stays),
    )


def misfits(plan: Plan) -> tuple[Misfit, ...]:
    """What goes to the quarantine, in the order in which it goes."""
    manifests = [Misfit(_shown(f"manifests/{one.path}"), printable(one.why), replaced=False) for one in plan.manifests]
    strays = [Misfit(_shown(f"blobs/{one.file}"), one.what, replaced=False) for one in plan.strays]
    blobs = [
        Misfit(f"blobs/sha256-{one.blob.digest.hex}", printable(one.blob.why), one.replaced) for one in plan.corrupt
    ]
    return (*manifests, *strays, *blobs)


def quarantined(one: Quarantined) -> MovedAway:
    """The event for one of them."""
    return MovedAway("quarantined", _shown(one.path), printable(one.what), one.taken.value)


def _shown(path: str) -> str:
    return printable(path, limit=_PATH)
