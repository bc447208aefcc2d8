"""The listeners that settings may move: the ops listener and the API's TCP listener. And how healthy we say we are."""

import os
import time
from collections.abc import Callable

import structlog

from syncd.aio import in_thread
from syncd.api.exposition import Exposition
from syncd.api.guard import TcpDoor
from syncd.api.listeners import Listeners, Site, tcp_site
from syncd.api.ops import ops_app
from syncd.daemon.access import secret_line
from syncd.daemon.settings import ControlSettings, Settings
from syncd.daemon.units import Address
from syncd.errors import SyncdError
from syncd.store.locks import Lock
from syncd.store.root import Store

log = structlog.get_logger()

_PROBE_EVERY = 5.0  # seconds for which an answer about the store stands: whoever asks more often writes no more


class Health:
    """Why a restart might help, and why nobody should count on us yet."""

    def __init__(self, store: Store, lock: Lock, settled: Callable[[], bool]) -> None:
        """``settled``: whether the first look at every desired model is through."""
        self._store = store
        self._lock = lock
        self._settled = settled
        self._probed = float("-inf")
        self._unwritable: str | None = None

    async def unhealthy(self) -> tuple[str, ...]:
        """That there is an answer says that the loop runs; so it is about the lock."""
        # A lock whose file was deleted is one that the next daemon does not meet.
        if not self._lock.held or not os.fstat(self._lock.fd).st_nlink:
            return ("the store's daemon lock is lost",)
        return ()

    async def unready(self) -> tuple[str, ...]:
        """What is still to come, or has gone."""
        reasons = list(await self.unhealthy())
        if not self._settled():
            reasons.append("not every model of the settings has been looked at yet")
        if time.monotonic() - self._probed > _PROBE_EVERY:
            self._probed = time.monotonic()
            self._unwritable = await in_thread(self._probe)
        if self._unwritable is not None:
            reasons.append(self._unwritable)
        return tuple(reasons)

    def _probe(self) -> str | None:
        try:
            self._store.prove_writable()
        except SyncdError as error:
            log.warning("store.unwritable", error=error.message)
            # Who asks may be a stranger, and is told of no path.
            cause = error.__cause__
            why = cause.strerror if isinstance(cause, OSError) else None
            return f"the store cannot be written to: {why or 'the log says why'}"
        return None


class Doors:
    """Opens what the settings ask for, and moves it when they change."""

    def __init__(self, listeners: Listeners, exposition: Exposition, health: Health) -> None:
        self._listeners = listeners
        self._exposition = exposition
        self._health = health
        self._ops: tuple[Address, Site] | None = None

    async def adapt(self, settings: Settings) -> None:
        """Listen where ``settings`` say. Raise ``SyncdError``: some of it stays where it was, or closed."""
        try:
            await self._listeners.listen(await in_thread(_door, settings.control))
        finally:
            await self._adapt_ops(settings.ops.listen)

    async def close(self) -> None:
        """Close the ops listener; the other belongs to ``listeners``."""
        if self._ops is not None:
            (_, site), self._ops = self._ops, None
            await site.close()

    async def _adapt_ops(self, wanted: Address | None) -> None:
        if self._ops is not None and self._ops[0] == wanted:
            return
        if wanted is None:
            await self.close()
            return
        app = ops_app(
            self._exposition,
            unhealthy=self._health.unhealthy,
            unready=self._health.unready,
            loopback=wanted.is_loopback,
        )
        site = await tcp_site(app, wanted.host, wanted.port)
        await self.close()
        self._ops = (wanted, site)
        log.info("ops.listening", host=site.address[0], port=site.address[1])


def _door(control: ControlSettings) -> TcpDoor | None:
    if control.listen is None:
        return None
    return TcpDoor(
        host=control.listen.host,
        port=control.listen.port,
        token=secret_line(control.token_file) if control.token_file is not None else None,
        allowed_hosts=control.allowed_hosts,
    )
