"""A pull as ``/syncd/v1`` tells of it: the job, each of its moments and its end, to lines and back from them."""

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from syncd.api.catalogue import rfc3339
from syncd.api.events import BlobEvent, Ended, Failed, blobs, ended, failed
from syncd.api.v1 import JobInfo
from syncd.errors import SyncdError
from syncd.jobs.progress import BlobProgress, BlobState, Phase, PullOutcome, PullProgress, Totals
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import Reference
from syncd.text import printable

if TYPE_CHECKING:  # the command reads what a daemon says without the imports of what runs there
    from syncd.jobs.board import JobView


class Attached(msgspec.Struct, frozen=True, tag_field="event", tag="attached"):
    """First line of a followed job. ``fresh``: this request started it."""

    job: str
    name: str
    asked_by: str
    fresh: bool


class PullUpdate(msgspec.Struct, frozen=True, tag_field="event", tag="update"):
    """A moment of a pull, with all that a view needs."""

    name: str
    phase: str
    digest: str | None
    blobs: tuple[BlobEvent, ...]
    retries: int
    trouble: str | None


class PullEnded(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """Last line of a pull that ended well."""

    outcome: Ended
    reference: str


class PullFailed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """Last line of a pull that did not."""

    error: Failed
    state: Literal["failed", "cancelled"]


Line = Attached | PullUpdate | PullEnded | PullFailed
"""A line of a followed pull."""


def job_info(view: "JobView") -> JobInfo:
    """A job as others see it."""
    totals = Totals.of(view.progress) if view.progress else Totals(0, 0, 0)
    return JobInfo(
        id=view.id,
        kind=view.kind,
        name=str(view.reference),
        state=view.state.value,
        phase=view.progress.phase.value if view.progress else None,
        asked_by=printable(view.asked_by),
        started=rfc3339(view.started),
        ended=rfc3339(view.ended) if view.ended is not None else None,
        size=view.outcome.size if view.outcome else totals.size,
        done=view.outcome.size if view.outcome else totals.done,
        error=printable(view.error.message) if view.error else None,
    )


def update(now: PullProgress) -> PullUpdate:
    """A moment as a line."""
    return PullUpdate(
        name=str(now.reference),
        phase=now.phase.value,
        digest=str(now.digest) if now.digest else None,
        blobs=blobs(now),
        retries=now.retries,
        trouble=printable(now.trouble) if now.trouble is not None else None,
    )


def progress(line: PullUpdate) -> PullProgress:
    """A line as the moment that it tells of. Raise ``SyncdError`` or ``ValueError`` for one that no daemon wrote."""
    return PullProgress(
        reference=Reference.parse(line.name),
        phase=Phase(line.phase),
        digest=Digest.parse(line.digest) if line.digest else None,
        blobs=tuple(
            BlobProgress(
                Descriptor(one.media_type, Digest.parse(one.digest), one.size),
                BlobState(one.state),
                one.done,
                one.fetched,
            )
            for one in line.blobs
        ),
        retries=line.retries,
        trouble=line.trouble,
    )


def end(view: "JobView") -> PullEnded | PullFailed:
    """The last line of a job that has ended."""
    if view.outcome is not None:
        return PullEnded(ended(view.outcome), str(view.reference))
    error = view.error or SyncdError("the job ended without an outcome")
    state: Literal["failed", "cancelled"] = "cancelled" if view.state.value == "cancelled" else "failed"
    return PullFailed(failed(error, str(view.reference.name)), state)


def outcome(line: PullEnded) -> PullOutcome:
    """The outcome that a last line tells of. Raise ``SyncdError`` for one that no daemon wrote."""
    told = line.outcome
    return PullOutcome(
        reference=Reference.parse(line.reference),
        digest=Digest.parse(told.digest),
        current=told.event == "current",
        size=told.size,
        blobs=told.blobs,
        fetched_blobs=told.fetched_blobs,
        fetched_bytes=told.fetched_bytes,
        found_bytes=told.found_bytes,
        seconds=told.seconds,
        moved_back=None if told.moved_back is None else datetime.fromisoformat(told.moved_back).timestamp(),
    )
