"""What rollouts are done with: the way from server to server, and back where a version cannot be served."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from syncd.aio import in_thread
from syncd.daemon.prewarm import kept_warm
from syncd.daemon.rollout_asked import Asked
from syncd.daemon.rollout_memory import RolloutBook
from syncd.daemon.settings import Settings
from syncd.errors import SyncdError
from syncd.instances.model import Instance
from syncd.jobs.reload import Update
from syncd.jobs.reload_revert import bring_back, other_weights, warm_again
from syncd.jobs.reload_server import Reloader, Servers
from syncd.jobs.rollout import Roller, Rollout, State, Tried, halt
from syncd.store.root import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Makes what takes rollouts to servers, by the settings in force."""

    store: Store
    servers: Servers
    reloader: Reloader
    book: RolloutBook
    settings: Callable[[], Settings]

    def roller(self, instances: Sequence[Instance], tried: Tried, *, asked: Asked | None = None) -> Roller:
        """To these servers. ``asked``: an operator's wish, which is noted nowhere and overtaken by nothing."""

        async def update_of(rollout: Rollout) -> Update:
            return await in_thread(self._update_of, rollout, instances, only_prove=asked is not None and asked.prove)

        return Roller(
            reloader=self.reloader,
            instances=instances,
            at_once=self.settings().reload.max_unavailable,
            update_of=update_of,
            note=_note_nothing if asked else self.book.note,
            tried=tried,
            revert=self._revert,
            overtaken=_never_overtaken if asked else self.book.overtaken,
        )

    def _update_of(self, rollout: Rollout, instances: Sequence[Instance], *, only_prove: bool) -> Update:
        name = rollout.name
        manifest = self.store.models.read(name)
        old = other_weights(self.store, name, manifest) if manifest else frozenset[str]()
        keep = (one.name for one in instances if name in kept_warm(self.settings(), one))
        return Update(
            name=name,
            digest=rollout.digest,
            change=rollout.change,
            outdated=old,
            warm=rollout.warm,
            keep_warm=frozenset(keep),
            only_prove=only_prove,
        )

    async def _revert(self, rollout: Rollout) -> Rollout:
        instances = self.servers.instances()
        await self.book.note(rollout)  # from here on this version is refused, whatever happens to this process
        try:
            await bring_back(self.store, rollout, self.reloader, instances)
        except SyncdError as error:
            log.warning("rollout.not_reverted", name=str(rollout.name), error=error.message)
            return halt(rollout, f"{rollout.reason}; the older version cannot be brought back: {error.message}")
        reverted = replace(rollout, state=State.REVERTED)
        await self.book.note(reverted)
        self.servers.published(rollout.name)
        await warm_again(self.store, rollout, self.reloader, instances)
        return reverted


def _never_overtaken(_rollout: Rollout) -> bool:
    return False


async def _note_nothing(_rollout: Rollout) -> None:
    """What an operator asks for is not gone on with in another life."""
