"""What ``export --json`` and ``import --json`` write. An import's lines are a pull's, but for the first and the last.

Shapes are kept as in ``api.events``.
"""

from pathlib import Path
from typing import Literal

import msgspec

from syncd.jobs.export import Exported
from syncd.jobs.progress import PullOutcome
from syncd.text import printable

_PATH = 4096


class Exporting(msgspec.Struct, frozen=True):
    """How far an export is: ``done`` of ``size`` bytes of blobs."""

    event: Literal["exporting"]
    done: int
    size: int


class BundledModel(msgspec.Struct, frozen=True):
    """A model in a bundle. ``size``: bytes of its blobs, some of which others may share."""

    name: str
    digest: str
    size: int


class BundleWritten(msgspec.Struct, frozen=True):
    """A bundle is written to its end, durably. ``size``: of the archive."""

    event: Literal["exported"]
    file: str
    models: tuple[BundledModel, ...]
    blobs: int
    size: int
    seconds: float


class BundleReading(msgspec.Struct, frozen=True):
    """How much of a bundle that comes from a pipe has come."""

    event: Literal["reading"]
    done: int


class ModelImported(msgspec.Struct, frozen=True):
    """A model is published. ``current``: it was before. ``taken_bytes``: of the bundle; ``found_bytes``: were here."""

    event: Literal["imported"]
    name: str
    digest: str
    current: bool
    size: int
    taken_bytes: int
    found_bytes: int
    seconds: float


def written(ended: Exported, file: Path, seconds: float) -> BundleWritten:
    """The event for the end of an export."""
    return BundleWritten(
        event="exported",
        file=printable(str(file), limit=_PATH),
        models=tuple(
            BundledModel(one.name.qualified, str(one.manifest.digest), one.manifest.size) for one in ended.models
        ),
        blobs=ended.blobs,
        size=ended.size,
        seconds=round(seconds, 3),
    )


def imported(ended: PullOutcome) -> ModelImported:
    """The event for a model that is in."""
    return ModelImported(
        event="imported",
        name=str(ended.reference.name),
        digest=str(ended.digest),
        current=ended.current,
        size=ended.size,
        taken_bytes=ended.fetched_bytes,
        found_bytes=ended.found_bytes,
        seconds=round(ended.seconds, 3),
    )
