"""``syncd gc``: give back the space of what nothing needs."""

import msgspec
import structlog

from syncd.aio import in_thread
from syncd.api.collected import Collected
from syncd.api.operation import Desk, Operation, Tell
from syncd.errors import IntegrityError
from syncd.jobs.collect import collect, plan
from syncd.jobs.collection import NO_SERVERS_KNOWN, CollectionPlan, Memories
from syncd.text import printable

log = structlog.get_logger()


class CollectRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Collect what nothing needs. ``without_servers``: also where it is not known what servers have loaded."""

    dry_run: bool = False
    without_servers: bool = False


async def _collect(desk: Desk, asked: CollectRequest, _tell: Tell) -> Collected:
    rules = desk.rules
    known = await _asked_directly(desk) if desk.servers is None else Memories()

    def memories() -> Memories:
        servers = desk.servers
        found = known if servers is None else Memories(loaded=servers.loaded(), doubts=servers.busy())
        return Memories(loaded=found.loaded, doubts=found.doubts, notices=found.notices, insisted=asked.without_servers)

    if asked.dry_run:
        planned = await in_thread(plan, desk.store, desk.now(), rules=rules.collect, memories=memories())
    else:
        planned = await collect(desk.store, now=desk.now(), rules=rules.collect, memories=memories)
        log.info("store.collected", by=desk.by, blobs=len(planned.blobs), bytes=planned.freed, doubts=planned.doubts)
        desk.changed()
    return collected(planned, dry_run=asked.dry_run)


async def _asked_directly(desk: Desk) -> Memories:
    from syncd.jobs.memories import ask  # noqa: PLC0415 - the daemon knows, and where none runs there may be no server

    servers = desk.rules.servers
    if not servers.instances and not servers.discovered:
        return Memories(notices=(NO_SERVERS_KNOWN,))
    return await ask(servers.instances, discovered=servers.discovered, patience=servers.patience)


def collected(planned: CollectionPlan, *, dry_run: bool) -> Collected:
    """The event for a collection. Raise ``IntegrityError`` for one that a broken manifest kept from taking anything."""
    if planned.broken:
        one = planned.broken[0]
        raise IntegrityError(
            f"nothing is collected while manifests/{one.path} cannot be read: {one.problem}",
            hint=f"'syncd pull {one.name}' replaces it, 'syncd rm {one.name}' removes it" if one.name else None,
        )
    blobs = {str(blob.digest): blob.size for blob in planned.blobs}
    leftovers = {printable(file.name): file.size for file in planned.staged}
    quarantined = {printable(file.name): file.size for file in planned.quarantined}
    return Collected(
        event="collected",
        dry_run=dry_run,
        freed_bytes=planned.freed,
        blobs=tuple(blobs),
        leftovers=tuple(leftovers),
        sizes=blobs | leftovers | quarantined,
        quarantined=tuple(quarantined),
        held_back=tuple(str(blob.digest) for blob in planned.held_back),
        held_back_bytes=planned.freed_later,
        doubts=tuple(map(printable, planned.doubts)),
        notices=tuple(map(printable, planned.notices)),
    )


COLLECT = Operation(
    path="collect",
    asked=CollectRequest,
    lines={},
    ended=("collected", Collected),
    run=_collect,
    writes=lambda asked: not asked.dry_run,
)
