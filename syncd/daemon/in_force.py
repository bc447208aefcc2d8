"""The settings in force: newer ones are taken over by all that goes by them, and what cannot be had is tried again."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from syncd.aio import in_thread
from syncd.daemon.access import Access
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.doors import Doors
from syncd.daemon.loaded import Loaded
from syncd.daemon.notify import Notifier
from syncd.daemon.pulse import Pulse
from syncd.daemon.settings import Settings
from syncd.daemon.telemetry import SettingsState, Telemetry
from syncd.daemon.ways import Ways
from syncd.errors import SyncdError
from syncd.store.root import Store

log = structlog.get_logger()

_ROOM = 0.1  # seconds until a manager that had no room for a message gets it again
_TRIES = 100  # a manager that never reads must not keep later reloads from being heard
_OPEN_AGAIN = 30.0  # seconds


def needs_restart(then: Settings, now: Settings) -> tuple[str, ...]:
    """The keys whose value of ``now`` a restart alone brings into force, of a daemon that began with ``then``."""
    changed = {
        "store": then.store != now.store,
        "allow_network_filesystem": then.allow_network_filesystem != now.allow_network_filesystem,
        "control.socket": then.control.socket != now.control.socket,
        "control.group": then.control.group != now.control.group,
    }
    return tuple(key for key, differs in changed.items() if differs)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoingBySettings:
    """What goes by the settings, or hears of new ones. ``access``: what opens the registries; it blocks.

    ``line``: the status line that a service manager shows.
    """

    store: Store
    ways: Ways
    doors: Doors
    access: Callable[[Loaded], Access]
    notifier: Notifier
    pulse: Pulse
    line: Callable[[], str]
    telemetry: Telemetry
    chronicle: Chronicle


class InForce:
    """Two services: ``take_over`` goes by new settings, ``reload_when_asked`` has them read anew."""

    def __init__(self, settings: AppliedSettings, those: GoingBySettings, *, open_again: float = _OPEN_AGAIN) -> None:
        """``open_again``: seconds until another try at what new settings ask for and could not have."""
        self._settings = settings
        self._open_again = open_again
        self._those = those
        self._in_force = settings.revision  # that everything goes by
        self._used = settings.current
        self._not_applied: SyncdError | None = None
        self._new_in_force = asyncio.Condition()
        self._reload_asked = asyncio.Event()

    async def begin(self) -> None:
        """Go by the settings that there are, but for the doors: nobody is at home yet. Raise ``SyncdError``."""
        self._those.store.leases.lifetime = self._used.settings.download.keep_partials
        await self._renew_ways(self._used)

    def ask_reload(self) -> None:
        """Have the settings read anew, as soon as ``reload_when_asked`` runs."""
        self._reload_asked.set()

    @property
    def fault(self) -> SyncdError | None:
        """What the settings' files say that is not so."""
        return self._settings.fault or self._not_applied

    @property
    def state(self) -> SettingsState:
        """The same for the metrics."""
        return SettingsState(loaded=self._settings.loaded_at, rejected=self.fault is not None)

    async def take_over(self) -> None:
        """It ends by cancellation."""
        while True:
            revision = await self._next_revision()
            loaded, fault = self._settings.current, self._settings.fault
            # Refused ones may come right after others that were not, and nobody has gone by those yet, or not by all.
            if fault is None or loaded is not self._used or self._not_applied is not None:
                await self._use(loaded)
            if revision > self._in_force:
                self._those.telemetry.settings_read(applied=fault is None)
                if fault is None:
                    self._those.chronicle.tell("settings.applied")
                else:
                    self._those.chronicle.tell("settings.refused", detail=fault.message)
            self._those.pulse.stir()
            async with self._new_in_force:
                self._in_force = revision
                self._new_in_force.notify_all()

    async def _next_revision(self) -> int:
        """The newest one, once there is one to go by, or it is time to try again what could not be opened."""
        try:
            async with asyncio.timeout(None if self._not_applied is None else self._open_again):
                return await self._settings.changed(self._in_force)
        except TimeoutError:
            return self._in_force

    async def _use(self, loaded: Loaded) -> None:
        """What the settings say, from now on. What cannot be opened is told, and the rest goes on."""
        self._used = loaded
        self._those.store.leases.lifetime = loaded.settings.download.keep_partials
        known, self._not_applied = self._not_applied, None
        try:
            await self._renew_ways(loaded)
            await self._those.doors.adapt(loaded.settings)
        except SyncdError as error:
            self._not_applied = error
            if known is None or known.message != error.message:
                log.error("settings.not_applied", error=error.message, hint=error.hint)  # noqa: TRY400 - expected
                self._those.chronicle.tell("settings.not_applied", detail=error.message)

    async def _renew_ways(self, loaded: Loaded) -> None:
        access = await in_thread(self._those.access, loaded)
        for notice in access.notices:
            log.warning("settings.notice", notice=notice)
        await self._those.ways.renew(loaded, access)

    async def reload_when_asked(self) -> None:
        """It ends by cancellation."""
        # One at a time: however often it is asked meanwhile, one more is what all of them get.
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            self._those.notifier.reloading(time.monotonic_ns())
            await self._settings.reload()
            asked = self._settings.revision
            async with self._new_in_force:
                await self._new_in_force.wait_for(lambda: self._in_force >= asked)  # noqa: B023 - it ends here
            for _ in range(_TRIES):
                if self._those.notifier.ready(self._those.line()):
                    break
                await asyncio.sleep(_ROOM)
