"""What earlier lives and earlier settings left: jobs that daemons did not end, models that nobody wants any more."""

from collections.abc import Container

import structlog

from syncd.daemon.acts import ASKED_BY
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.desired import hold_seconds
from syncd.daemon.followed import Times
from syncd.daemon.memory import Memory, recall_digest
from syncd.errors import SyncdError
from syncd.jobs.board import Board
from syncd.jobs.remove import remove_if
from syncd.store.root import Store

log = structlog.get_logger()


class Leavings:
    """``wanted``, in each method: the folded names that the settings want."""

    def __init__(self, store: Store, board: Board, memory: Memory, chronicle: Chronicle, *, times: Times) -> None:
        self._store = store
        self._board = board
        self._memory = memory
        self._chronicle = chronicle
        self._times = times
        self._born = times.monotonic()

    def held(self) -> dict[str, float]:
        """Until when (on the monotonic clock) no pull of these names, folded, is begun: a daemon died under it."""
        return {
            left.reference.name.folded: self._born + hold_seconds(left.deaths)
            for left in self._memory.jobs.left_behind()
            if left.deaths
        }

    def resume(self, wanted: Container[str]) -> float:
        """Begin again what others had asked the last daemon for when it ended; when the next of it is to be begun."""
        wake = float("inf")
        for left in self._memory.jobs.left_behind():
            name = left.reference.name
            if self._board.running(name):
                continue
            if left.asked_by == ASKED_BY:
                if name.folded not in wanted:
                    self._memory.jobs.forget(left)  # the settings do not ask any more
                continue
            at = self._born + hold_seconds(left.deaths)
            if self._times.monotonic() < at:
                wake = min(wake, at)
                continue
            log.info("job.resumed", name=str(left.reference), deaths=left.deaths)
            try:
                self._board.pull(left.reference, asked_by=left.asked_by)
            except SyncdError as error:
                log.warning("job.not_resumed", name=str(left.reference), error=error.message)
        return wake

    async def prune(self, wanted: Container[str]) -> None:
        """Take away what the reconcile itself published and the settings do not name any more."""
        for name in self._memory.names():
            published = recall_digest(self._memory.of(name).published)
            if name.folded in wanted or published is None or self._board.running(name):
                continue
            try:
                removed = await remove_if(self._store, name, published, now=self._times.wall())
            except SyncdError as error:
                log.warning("model.not_pruned", name=str(name), error=error.message)
                continue
            self._memory.forget(name)  # removed, or somebody else's by now
            if removed is not None:
                log.info("model.pruned", name=str(name), digest=str(published))
                self._chronicle.tell("model.removed", name=str(name), detail=ASKED_BY)
