"""``syncd rollback``: an earlier version is published again, and the tag is held there."""

from typing import Literal

import msgspec

from syncd.aio import in_thread
from syncd.api import pulls
from syncd.api.catalogue import rfc3339
from syncd.api.operation import Desk, Operation, Tell
from syncd.errors import BusyError
from syncd.jobs.rollback import RollbackPlan, plan, roll_back
from syncd.oci.name import ModelName
from syncd.text import printable


class RollbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model. ``digest``: of the version, or its first digits; null: the version before the published one."""

    name: str
    digest: str | None = None
    dry_run: bool = False


class RolledBack(msgspec.Struct, frozen=True):
    """``rollback``: what is published now (or, after ``dry_run``, would be), and what was before.

    ``published``: when this version was published last; ``origin``: where it came from. ``fetch_bytes``: of blobs that
    were not on the disk any more; ``fetched_bytes`` crossed the network. ``current``: it was published already.
    """

    event: Literal["rolled_back"]
    name: str
    digest: str
    previous: str | None
    published: str
    origin: str
    size: int
    current: bool
    fetch_bytes: int
    fetched_bytes: int
    dry_run: bool


async def _rollback(desk: Desk, asked: RollbackRequest, tell: Tell) -> RolledBack:
    planned = await in_thread(_planned, desk, asked)
    if asked.dry_run:
        return _told(planned, fetched=0, current=planned.current == planned.digest, dry_run=True)
    try:
        async with desk.pulling() as means:
            ended = await roll_back(
                planned, means, f"a rollback by {desk.by}", lambda moment: tell(pulls.update(moment))
            )
    finally:
        desk.changed(planned.name)
    return _told(planned, fetched=ended.fetched_bytes, current=ended.current, dry_run=False)


def _planned(desk: Desk, asked: RollbackRequest) -> RollbackPlan:
    name = desk.store.models.known(ModelName.parse(asked.name))
    planned = plan(desk.store, name, asked.digest, desk.rules.policy)
    pin = desk.rules.pin_of(name)
    if pin not in {None, planned.digest}:
        raise BusyError(
            f"{name} is pinned by the settings at {desk.wanted(name)} to {pin}",
            hint=f"change that pin; 'syncd unpin {name}' takes it out of a pins file",
        )
    return planned


def _told(planned: RollbackPlan, *, fetched: int, current: bool, dry_run: bool) -> RolledBack:
    return RolledBack(
        event="rolled_back",
        name=str(planned.name),
        digest=str(planned.digest),
        previous=str(planned.current) if planned.current else None,
        published=rfc3339(planned.target.time),
        origin=printable(planned.target.origin),
        size=planned.target.manifest.size,
        current=current,
        fetch_bytes=sum(blob.size for blob in planned.missing),
        fetched_bytes=fetched,
        dry_run=dry_run,
    )


ROLLBACK = Operation(
    path="rollback",
    asked=RollbackRequest,
    lines={"update": pulls.PullUpdate},
    ended=("rolled_back", RolledBack),
    run=_rollback,
    writes=lambda asked: not asked.dry_run,
    moments=(pulls.PullUpdate,),
)
