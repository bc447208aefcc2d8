"""Taking a version back: the one before it is published again, and loaded where it was in use."""

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from syncd.aio import in_thread
from syncd.errors import BusyError, NotFoundError, SyncdError
from syncd.instances.model import Instance
from syncd.jobs.reload import Change, Update, outdated, to_unload
from syncd.jobs.reload_server import Reloader
from syncd.jobs.restore import Restoration, restore
from syncd.jobs.rollout import Rollout
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store

log = structlog.get_logger()

_ATTEMPTS = 100
_ASK_AGAIN = 0.1  # seconds until the name's lock is tried again
_UNLOAD_SECONDS = 15.0


async def bring_back(store: Store, rollout: Rollout, reloader: Reloader, instances: Sequence[Instance]) -> None:
    """Publish what ``rollout`` replaced, at once. Raise ``SyncdError`` where that cannot be done, or not any more."""
    if rollout.previous is None:
        raise NotFoundError(f"{rollout.name}: there is no older version")
    affected = [one for one in instances if one.name in rollout.failed or one.name in rollout.warm]
    await let_go(reloader, to_unload(affected, rollout.change), rollout.name)
    for _ in range(_ATTEMPTS):
        if await in_thread(store.models.tag_digest, rollout.name) not in {rollout.digest, rollout.previous}:
            raise BusyError(f"{rollout.name}: another version has been published meanwhile")
        match await restore(store, rollout.name, rollout.previous):
            case Restoration.RESTORED | Restoration.INTACT:
                log.info("rollout.reverted", name=str(rollout.name), digest=str(rollout.previous))
                return
            case Restoration.GONE:
                raise NotFoundError(f"{rollout.name}: the older version is not on the disk any more")
            case Restoration.BUSY:
                await asyncio.sleep(_ASK_AGAIN)
    raise BusyError(f"{rollout.name}: somebody else is at this name all the time")


async def warm_again(store: Store, rollout: Rollout, reloader: Reloader, instances: Sequence[Instance]) -> None:
    """Have the older version loaded, one server after another, where it was in use. A server that fails is logged."""
    if rollout.previous is None:
        return
    manifest = await in_thread(store.models.read, rollout.name)
    if manifest is None or manifest.digest != rollout.previous:
        return
    old = await in_thread(other_weights, store, rollout.name, manifest)
    change = Change.TEXT if rollout.change is Change.TEXT else Change.WEIGHTS
    update = Update(name=rollout.name, digest=manifest.digest, change=change, outdated=old, warm=rollout.warm)
    for instance in instances:
        if instance.name in rollout.warm or instance.name in rollout.failed:
            verdict = (await reloader.reload(instance, (update,)))[rollout.name]
            if not verdict.good:
                log.warning("rollout.not_warm_again", instance=instance.name, error=verdict.reason)


async def let_go(reloader: Reloader, instances: Iterable[Instance], name: ModelName) -> None:
    """Have these servers unload what ``name`` means now, all at once. One that does not is stale, and is seen to be."""

    async def one(instance: Instance) -> None:
        try:
            async with asyncio.timeout(_UNLOAD_SECONDS):
                await reloader.unload(instance, name)
        except (SyncdError, TimeoutError) as error:
            log.warning("server.not_unloaded", instance=instance.name, name=str(name), error=str(error))

    async with asyncio.TaskGroup() as group:
        for instance in instances:
            group.create_task(one(instance), name=f"unload {instance.name}")


def other_weights(store: Store, name: ModelName, manifest: Manifest) -> frozenset[str]:
    """The digests that were published under ``name`` with other weights than ``manifest`` has: bare hex. Blocks."""
    return outdated((one.manifest for one in store.models.history(name)), manifest)
