"""What ``adopt --json`` writes: ``plan`` first, then a pull's events and ``adopted`` or ``error`` for each model.

Shapes are kept as in ``api.events``.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from syncd.jobs.adopt import Adopted
from syncd.jobs.adoption import ModelPlan, Plan
from syncd.store.intake import Way
from syncd.store.source import Forgotten
from syncd.text import printable

_PATH = 4096


class PlannedBlob(msgspec.Struct, frozen=True):
    """A blob. ``find``: stored, unverified, new, wrong size, partial or missing; ``way``: how a new one would come."""

    digest: str
    size: int
    find: str
    way: str | None


class PlannedModel(msgspec.Struct, frozen=True):
    """A model of the sources. ``decision``: adopt, current, kept, incomplete, conflict or broken; ``why`` in words.

    ``hosted``: a stub for a model that runs elsewhere.
    """

    name: str | None
    path: str
    digest: str | None
    sources: tuple[str, ...]
    decision: str
    why: str | None
    hosted: bool
    blobs: tuple[PlannedBlob, ...]


class Leftover(msgspec.Struct, frozen=True):
    """A file among a source's blobs that is none and is not taken. ``size``: bytes on the disk."""

    path: str
    size: int
    what: str


class Planned(msgspec.Struct, frozen=True):
    """What adopting does, or after ``dry_run`` would do. ``bytes``: of new blobs, by the way they come."""

    event: Literal["plan"]
    dry_run: bool
    delete_source: bool
    models: tuple[PlannedModel, ...]
    leftovers: tuple[Leftover, ...]
    bytes: dict[str, int]
    shared_bytes: int


class ModelAdopted(msgspec.Struct, frozen=True):
    """A model is published. ``current``: it was before. ``bytes``: taken, by way. ``freed_bytes``: of the sources.

    ``left``: why something stays in a source that was to be deleted.
    """

    event: Literal["adopted"]
    name: str
    digest: str
    current: bool
    size: int
    bytes: dict[str, int]
    freed_bytes: int
    left: tuple[str, ...]
    seconds: float


class Swept(msgspec.Struct, frozen=True):
    """The end of ``--delete-source``: blobs that sources named no more, and that the store has, are gone from them."""

    event: Literal["swept"]
    freed_bytes: int
    left: tuple[str, ...]


def planned(plan: Plan, *, dry_run: bool, delete: bool) -> Planned:
    """The event for a plan."""
    return Planned(
        event="plan",
        dry_run=dry_run,
        delete_source=delete,
        models=tuple(_model(model, plan) for model in plan.models),
        leftovers=tuple(
            Leftover(printable(str(scan.path / "blobs" / stray.file), limit=_PATH), stray.size, stray.what)
            for scan in plan.scans
            for stray in scan.strays
        ),
        bytes={way.value: plan.bytes_by(way) for way in Way},
        shared_bytes=plan.shared_bytes,
    )


def adopted(ended: Adopted) -> ModelAdopted:
    """The event for a model that is in."""
    return ModelAdopted(
        event="adopted",
        name=str(ended.outcome.reference.name),
        digest=str(ended.outcome.digest),
        current=ended.outcome.current,
        size=ended.outcome.size,
        bytes={way.value: count for way, count in ended.ways.items()},
        freed_bytes=ended.freed,
        left=tuple(printable(one) for one in ended.left),
        seconds=round(ended.outcome.seconds, 3),
    )


def swept(taken: Sequence[Forgotten]) -> Swept:
    """The event for that."""
    return Swept("swept", sum(one.size for one in taken), tuple(printable(one.problem) for one in taken if one.problem))


def _model(model: ModelPlan, plan: Plan) -> PlannedModel:
    return PlannedModel(
        name=str(model.name) if model.name else None,
        path=printable(model.path, limit=_PATH),
        digest=str(model.manifest.digest) if model.manifest else None,
        sources=tuple(printable(str(plan.scans[index].path), limit=_PATH) for index in model.sources),
        decision=model.decision.value,
        why=printable(model.why) if model.why else None,
        hosted=model.hosted,
        blobs=tuple(
            PlannedBlob(
                str(blob.blob.digest),
                blob.blob.size,
                blob.find.value,
                blob.candidates[0].way.value if blob.candidates else None,
            )
            for blob in model.blobs
        ),
    )
