"""``verify --repair``, ``scrub --repair``, and what the daemon does by itself: damaged blobs are mended."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from syncd.aio import in_thread
from syncd.api import events
from syncd.api.operation import Desk, Operation, Tell
from syncd.jobs import mend as mending
from syncd.jobs.damage import Damage
from syncd.jobs.mend import Fate, Mending
from syncd.jobs.progress import BlobProgress
from syncd.jobs.repair import survey
from syncd.jobs.verify import verify
from syncd.oci.name import ModelName
from syncd.text import printable

__all__ = [
    "MEND",
    "BlobMended",
    "BlobNotMended",
    "MendRequest",
    "MendedAll",
    "MendingNow",
    "mend",
]


class MendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mend what is known to be damaged of these models (null: of all).

    ``verify``: hash all their blobs first, as ``verify`` does; else none is read to find out. A blob is repaired from
    what is right of it and, for the rest, from the registries of its models and their mirrors. What nobody has any more
    is quarantined with its models, or kept, as ``[scrub] unrepairable`` says.
    """

    models: tuple[str, ...] | None = None
    verify: bool = False


class MendingNow(msgspec.Struct, frozen=True):
    """A blob on its way: ``done`` of ``size`` bytes are in place, ``fetched`` of them crossed the network.

    ``trouble``: the last connection that broke or was refused, in words.
    """

    event: Literal["mending"]
    digest: str
    size: int
    done: int
    fetched: int
    trouble: str | None = None


class BlobMended(msgspec.Struct, frozen=True):
    """A blob is whole again. ``fetched``: bytes that crossed the network for it."""

    event: Literal["mended"]
    digest: str
    size: int
    fetched: int
    models: tuple[str, ...]


class BlobNotMended(msgspec.Struct, frozen=True):
    """A blob is not. ``fate``: ``later``: try again; ``quarantined``: its models are out of sight; ``kept``: they stay.

    ``reason`` and ``hint``: why, and what to do.
    """

    event: Literal["not_mended"]
    digest: str
    size: int
    models: tuple[str, ...]
    fate: str
    reason: str
    hint: str | None


class MendedAll(msgspec.Struct, frozen=True):
    """How many blobs were mended, with how many bytes from the network, and how many were not, by their fate.

    ``faults``: what a verification found that is no blob's fault, such as a broken manifest.
    """

    event: Literal["mended_all"]
    faults: int
    mended: int
    fetched: int
    quarantined: int
    kept: int
    later: int


async def mend(desk: Desk, damages: Sequence[Damage], tell: Tell) -> tuple[Mending, ...]:
    """Mend these, one after another, and tell everybody who has to know: how each of them ended. Raise ``SyncdError``.

    ``tell`` hears of ``MendingNow``, ``BlobMended`` and ``BlobNotMended``.
    """
    ended = []

    def hear(one: Mending) -> None:
        ended.append(one)
        tell(_line(one))
        _tell_others(desk, one)

    async with desk.pulling() as means:
        for damage in damages:
            await mending.mend(
                desk.store,
                means,
                damage,
                keep=desk.rules.keep_unrepairable,
                report=lambda now: tell(_now(now)),
                ended=hear,
            )
    return tuple(ended)


def _tell_others(desk: Desk, ended: Mending) -> None:
    desk.mended(ended)
    if ended.repaired is not None and ended.repaired.replaced:
        desk.changed(*ended.repaired.models)
    elif ended.withdrawn is not None:
        desk.changed(*ended.withdrawn.models)


async def _mend(desk: Desk, asked: MendRequest, tell: Tell) -> MendedAll:
    names = None if asked.models is None else [ModelName.parse(name) for name in asked.models]
    faults = await _verify(desk, names, tell) if asked.verify else 0
    damages = await in_thread(survey, desk.store, names)
    return _summary(await mend(desk, damages, tell) if damages else (), faults)


async def _verify(desk: Desk, names: Sequence[ModelName] | None, tell: Tell) -> int:
    found = await verify(desk.store, names, on_progress=lambda now: tell(events.verifying(now)))
    for fault in found.faults:
        tell(events.fault(fault))
    return sum(fault.blob is None for fault in found.faults)


def _summary(ended: Iterable[Mending], faults: int) -> MendedAll:
    count = dict.fromkeys(Fate, 0)
    fetched = 0
    for one in ended:
        count[one.fate] += 1
        fetched += one.repaired.fetched if one.repaired else 0
    return MendedAll(
        event="mended_all",
        faults=faults,
        mended=count[Fate.MENDED],
        fetched=fetched,
        quarantined=count[Fate.QUARANTINED],
        kept=count[Fate.KEPT],
        later=count[Fate.LATER],
    )


def _now(progress: BlobProgress) -> MendingNow:
    blob = progress.blob
    return MendingNow("mending", str(blob.digest), blob.size, progress.done, progress.fetched, progress.trouble)


def _line(ended: Mending) -> BlobMended | BlobNotMended:
    blob, models = ended.damage.blob, tuple(str(name) for name in ended.damage.models)
    if ended.repaired is not None:
        return BlobMended("mended", str(blob.digest), blob.size, ended.repaired.fetched, models)
    error = ended.error
    return BlobNotMended(
        event="not_mended",
        digest=str(blob.digest),
        size=blob.size,
        models=models,
        fate=ended.fate.value,
        reason=printable(ended.reason or ""),
        hint=printable(error.hint) if error and error.hint else None,
    )


MEND = Operation(
    path="mend",
    asked=MendRequest,
    lines={
        "progress": events.Verifying,
        "fault": events.FaultFound,
        "mending": MendingNow,
        "mended": BlobMended,
        "not_mended": BlobNotMended,
    },
    ended=("mended_all", MendedAll),
    run=_mend,
    writes=lambda _asked: True,
    moments=(events.Verifying, MendingNow),
)
