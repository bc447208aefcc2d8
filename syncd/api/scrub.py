"""``syncd scrub``: read every blob over from the disk itself."""

import time
from dataclasses import replace
from typing import Annotated

import msgspec
import structlog

from syncd.aio import in_thread
from syncd.api.catalogue import rfc3339
from syncd.api.operation import Desk, Operation, Tell
from syncd.api.repair import BlobMended, BlobNotMended, MendingNow, mend
from syncd.api.scrubbed import DamageLine, LastScrub, Scrubbed, ScrubDamage, ScrubInfo, ScrubMoment
from syncd.jobs.damage import Damage
from syncd.jobs.scrub import ScrubEars, ScrubResult, ScrubWish, scrub
from syncd.jobs.scrub_book import ScrubProgress, count_mended, damage_of
from syncd.oci.name import ModelName
from syncd.store.scrubs import ScrubState
from syncd.text import printable

log = structlog.get_logger()


class ScrubRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read the blobs of these models over (null: of all), and find what is damaged.

    ``max_rate``: bytes a second; null: as fast as the disk. ``anew``: from the beginning, where one was interrupted.
    ``repair``: mend it then, as ``mend`` does.
    """

    names: tuple[str, ...] | None = None
    max_rate: Annotated[float, msgspec.Meta(ge=1000)] | None = None
    anew: bool = False
    repair: bool = False


async def _scrub(desk: Desk, asked: ScrubRequest, tell: Tell) -> Scrubbed:
    names = None if asked.names is None else [ModelName.parse(name) for name in asked.names]
    started = time.monotonic()
    wish = ScrubWish(names, asked.max_rate, anew=asked.anew)
    result = await scrub(desk.store, wish, desk.scrubs, ears(tell), monotonic=time.monotonic)
    log.info(
        "store.scrubbed",
        by=desk.by,
        blobs=result.blobs,
        bytes=result.size,
        damaged=result.damaged,
        direct=result.direct,
    )
    if asked.repair and result.damages:
        ended = await mend(desk, result.damages, tell)
        result = replace(result, damages=tuple(one.damage for one in ended if one.error is not None))
    if result.damaged or names is None:  # of all: the schedule counts from here
        desk.changed(*{name for damage in result.damages for name in damage.models})
    mended = await in_thread(count_mended, desk.store, result.found, result.damages)
    return scrubbed(result, time.monotonic() - started, mended=mended)


def ears(tell: Tell) -> ScrubEars:
    """Tells of a scrub in lines."""
    return ScrubEars(
        progress=lambda now: tell(moment(now)),
        damage=lambda found: tell(DamageLine(damage=note(found))),
    )


def note(found: Damage) -> ScrubDamage:
    """A damage, by its names; the log has it, too."""
    one = damaged(found)
    log.info("scrub.damage", blob=one.digest, kind=one.kind, models=one.models, detail=one.detail)
    return one


def moment(now: ScrubProgress) -> ScrubMoment:
    """A moment as a line."""
    return ScrubMoment(
        done=now.done,
        size=now.total,
        blobs_done=now.blobs_done,
        blobs=now.blobs,
        damaged=now.damaged,
        buffered=now.buffered,
    )


def damaged(found: Damage) -> ScrubDamage:
    """A damage by its names."""
    return ScrubDamage(
        digest=str(found.blob.digest),
        size=found.blob.size,
        kind=found.kind.value,
        models=tuple(map(str, found.models)),
        chunks=found.chunks,
        detail=printable(found.detail, limit=4096),
    )


def scrubbed(result: ScrubResult, seconds: float, *, mended: int) -> Scrubbed:
    """The last line of a scrub. ``mended``: how many of what it found damaged are right now."""
    return Scrubbed(
        models=result.models,
        blobs=result.blobs,
        size=result.size,
        damaged=result.damaged,
        mended=mended,
        unnamed=max(0, result.damaged - len(result.damages) - mended),
        damages=tuple(map(damaged, result.damages)),
        direct=result.direct,
        buffered=result.buffered,
        resumed=result.resumed,
        seconds=round(seconds, 3),
    )


def scrub_info(state: ScrubState, *, every: float | None, now: ScrubProgress | None = None) -> ScrubInfo:
    """What is known of scrubs. ``now``: of the one that runs."""
    last = state.last
    return ScrubInfo(
        every=None if every is None else float(every),
        next=rfc3339(state.due) if state.due is not None and every is not None else None,
        now=None if now is None else moment(now),
        last=None
        if last is None
        else LastScrub(
            ended=rfc3339(last.ended),
            seconds=round(last.seconds, 3),
            models=last.models,
            blobs=last.blobs,
            size=last.size,
            damaged=last.damaged,
            buffered=last.buffered,
        ),
        interrupted=state.whole is not None and now is None,
        damaged=tuple(damaged(damage_of(one)) for one in state.damaged),
        failure=None if state.failure is None else printable(state.failure),
    )


SCRUB = Operation(
    path="scrub",
    asked=ScrubRequest,
    lines={
        "scrubbing": ScrubMoment,
        "damage": DamageLine,
        "mending": MendingNow,
        "mended": BlobMended,
        "not_mended": BlobNotMended,
    },
    ended=("scrubbed", Scrubbed),
    run=_scrub,
    writes=lambda _asked: True,
    moments=(ScrubMoment, MendingNow),
)
