"""What ``--json`` writes: one JSON object a line, each event with one fixed shape.

Sizes are bytes, times are seconds; a field that is null is not known. A program may meet new fields and new events in
later versions, but what is here keeps its name and its meaning. A pull writes ``waiting`` (another process pulls that
name), ``resolving``, ``progress`` (about twice a second), ``publishing``, and last of all ``published``, ``current`` or
``error``. A command that fails ends with ``error``, whatever it wrote before.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from syncd.errors import SyncdError
from syncd.jobs.progress import Phase, PullOutcome, PullProgress, Totals
from syncd.text import printable, printable_json

if TYPE_CHECKING:  # an error's event must not wait for the imports of every job
    from syncd.jobs.remove import Removal
    from syncd.jobs.verify import Fault, Verification, VerifyProgress


class Step(msgspec.Struct, frozen=True):
    """A pull of ``name`` has come to a new phase."""

    event: Literal["waiting", "resolving", "publishing"]
    name: str


class BlobEvent(msgspec.Struct, frozen=True):
    """One blob: ``done`` bytes of ``size`` are in place, ``fetched`` came over the network for this pull.

    ``state``: pending, waiting (another process fetches it), verifying (what lies on the disk is being hashed),
    fetching, stored.
    """

    digest: str
    media_type: str
    size: int
    state: str
    done: int
    fetched: int


class Progress(msgspec.Struct, frozen=True):
    """How far a pull is. ``retries``: broken or refused connections so far; ``trouble``: the last one, in words."""

    event: Literal["progress"]
    name: str
    digest: str | None
    size: int
    done: int
    fetched: int
    retries: int
    trouble: str | None
    blobs: tuple[BlobEvent, ...]


class Ended(msgspec.Struct, frozen=True):
    """A pull that ended well: ``published`` a manifest, or found that the stored one is ``current``.

    ``fetched_bytes`` crossed the network for it, retries included; ``found_bytes`` were in the store already.
    ``moved_back``: when this digest was published before, if the registry's tag has moved back to it.
    """

    event: Literal["published", "current"]
    name: str
    digest: str
    size: int
    blobs: int
    fetched_blobs: int
    fetched_bytes: int
    found_bytes: int
    seconds: float
    moved_back: str | None = None


class Failed(msgspec.Struct, frozen=True):
    """What failed. ``name``: the model, where it was one's. ``exit_code``: what this failure alone would exit with."""

    event: Literal["error"]
    name: str | None
    message: str
    hint: str | None
    exit_code: int


class StoreMade(msgspec.Struct, frozen=True):
    """``init`` has made the store at this path, or taken it over."""

    event: Literal["initialised"]
    store: str


class Removed(msgspec.Struct, frozen=True):
    """``rm``: a tag that is gone (or, after ``dry_run``, would be).

    ``digest``: of its manifest, null if that was broken. ``published``: false if there was a pull to cancel, but no
    tag. ``freed``: digests of the blobs that a collection may take an hour later; ``shared``: of those that stay.
    """

    event: Literal["removed"]
    name: str
    dry_run: bool
    published: bool
    digest: str | None
    freed_bytes: int
    freed: tuple[str, ...]
    shared: tuple[str, ...]


class Verifying(msgspec.Struct, frozen=True):
    """How far ``verify`` is: ``done`` bytes of ``size`` are hashed."""

    event: Literal["progress"]
    done: int
    size: int
    blobs_done: int
    blobs: int


class FaultFound(msgspec.Struct, frozen=True):
    """``verify``: a fault, the models that it hits, the blob (null: it is the manifest), and words for people."""

    event: Literal["fault"]
    kind: str
    models: tuple[str, ...]
    digest: str | None
    detail: str


class Verified(msgspec.Struct, frozen=True):
    """``verify``: what was looked at, and how many faults there were."""

    event: Literal["verified"]
    models: int
    blobs: int
    size: int
    faults: int
    seconds: float


def line(event: msgspec.Struct) -> str:
    """One event as a line of NDJSON, with nothing in it that steers a terminal."""
    return printable_json(msgspec.json.encode(event).decode("utf-8")) + "\n"


def step(now: PullProgress) -> Step | None:
    """The event for a new phase, where the phase is one that other events do not tell of."""
    match now.phase:
        case Phase.WAITING:
            return Step(event="waiting", name=str(now.reference.name))
        case Phase.RESOLVING:
            return Step(event="resolving", name=str(now.reference.name))
        case Phase.PUBLISHING:
            return Step(event="publishing", name=str(now.reference.name))
        case _:
            return None


def progress(now: PullProgress) -> Progress:
    """The event for one moment of a pull."""
    totals = Totals.of(now)
    return Progress(
        event="progress",
        name=str(now.reference.name),
        digest=str(now.digest) if now.digest else None,
        size=totals.size,
        done=totals.done,
        fetched=totals.fetched,
        retries=now.retries,
        trouble=printable(now.trouble) if now.trouble is not None else None,
        blobs=blobs(now),
    )


def blobs(now: PullProgress) -> tuple[BlobEvent, ...]:
    """How each blob stands."""
    return tuple(
        BlobEvent(
            digest=str(one.blob.digest),
            media_type=printable(one.blob.media_type),
            size=one.blob.size,
            state=one.state.value,
            done=one.done,
            fetched=one.fetched,
        )
        for one in now.blobs
    )


def ended(outcome: PullOutcome) -> Ended:
    """The event for a pull that ended well."""
    return Ended(
        event="current" if outcome.current else "published",
        name=str(outcome.reference.name),
        digest=str(outcome.digest),
        size=outcome.size,
        blobs=outcome.blobs,
        fetched_blobs=outcome.fetched_blobs,
        fetched_bytes=outcome.fetched_bytes,
        found_bytes=outcome.found_bytes,
        seconds=round(outcome.seconds, 3),
        moved_back=None if outcome.moved_back is None else _rfc3339(outcome.moved_back),
    )


def _rfc3339(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def failed(error: SyncdError, name: str | None = None) -> Failed:
    """The event for an error; its texts are escaped, as they are on a terminal."""
    return Failed(
        event="error",
        name=name,
        message=printable(error.message),
        hint=printable(error.hint) if error.hint else None,
        exit_code=int(error.exit_code),
    )


def removed(planned: "Removal", *, dry_run: bool) -> Removed:
    """The event for a removal."""
    return Removed(
        event="removed",
        name=str(planned.name),
        dry_run=dry_run,
        published=planned.published,
        digest=str(planned.digest) if planned.digest else None,
        freed_bytes=planned.freed_bytes,
        freed=tuple(str(blob.digest) for blob in planned.freed),
        shared=tuple(str(blob.digest) for blob in planned.shared),
    )


def verifying(now: "VerifyProgress") -> Verifying:
    """The event for one moment of a verification."""
    return Verifying(event="progress", done=now.done, size=now.total, blobs_done=now.blobs_done, blobs=now.blobs)


def fault(found: "Fault") -> FaultFound:
    """The event for a fault."""
    return FaultFound(
        event="fault",
        kind=found.kind.value,
        models=tuple(printable(model) for model in found.models),
        digest=str(found.blob.digest) if found.blob else None,
        detail=printable(found.detail),
    )


def verified(found: "Verification", seconds: float) -> Verified:
    """The event for the end of a verification."""
    return Verified(
        event="verified",
        models=found.models,
        blobs=found.blobs,
        size=found.size,
        faults=len(found.faults),
        seconds=round(seconds, 3),
    )
