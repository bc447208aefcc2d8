"""The service, put together: one task group for its services, one for its jobs, and the order in which both end."""

import asyncio
import faulthandler
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from syncd import __version__
from syncd.aio import in_thread, only_error
from syncd.api.catalogue import rfc3339
from syncd.api.listeners import Listeners
from syncd.daemon.access import Access, ollama_key
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.collecting import Collecting
from syncd.daemon.doors import Doors, Health
from syncd.daemon.followed import Times
from syncd.daemon.inventory import Inventory
from syncd.daemon.loaded import Loaded
from syncd.daemon.memory import Memory
from syncd.daemon.notify import Notifier
from syncd.daemon.pinned import pins_info
from syncd.daemon.places import socket_path
from syncd.daemon.pulse import Pulse, status_line
from syncd.daemon.reconcile import Reconcile
from syncd.daemon.renewals import Renewals
from syncd.daemon.repairs import Repairs
from syncd.daemon.scrubbing import Scrubbing
from syncd.daemon.servers import Servers
from syncd.daemon.servers_desk import DaemonServers
from syncd.daemon.service import Daemon
from syncd.daemon.telemetry import SettingsState, Telemetry
from syncd.daemon.telemetry_collect import CollectionTelemetry
from syncd.daemon.telemetry_integrity import ScrubTelemetry
from syncd.daemon.telemetry_pins import PinTelemetry
from syncd.daemon.telemetry_repair import RepairTelemetry
from syncd.daemon.usable import usable
from syncd.daemon.ways import Ways
from syncd.errors import ExitCode, SyncdError
from syncd.jobs.board import Board, JobState, JobView
from syncd.jobs.collect import expire
from syncd.jobs.policy import refuse
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import pull
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.locks import Lock
from syncd.store.root import Store

log = structlog.get_logger()

_THREADS = 64 + 32  # one for each connection that settings may allow, and some for hashing, syncing and looking
_STOP_WITHIN = 9.0  # seconds after which an end that hangs is forced
_TIDY_EVERY = 6 * 3600.0  # seconds
_ROOM = 0.1  # seconds until a manager that had no room for a message gets it again
_TRIES = 100  # a manager that never reads must not keep later reloads from being heard
_OPEN_AGAIN = 30.0  # seconds until another try at what new settings ask for and could not have
_CREDENTIAL = "ollama_key"  # as the unit's LoadCredential= names it


def run(loaded: Loaded, store: Store, environ: Mapping[str, str], *, named: Path | None) -> int:
    """Serve until a signal ends it; the exit code.

    ``loaded``: the settings to begin with, ``named``: the file that was asked for, if one was.

    Raise ``BusyError`` where the store has a daemon, other ``SyncdError`` where it cannot start.
    """
    faulthandler.enable()  # a watchdog's SIGABRT leaves a traceback in the log
    holder = f"pid {os.getpid()}, since {rfc3339(time.time())}"
    try:
        with store.locks.daemon(holder) as lock, asyncio.Runner() as runner:
            return runner.run(_serve(loaded, store, lock, environ, named))
    except SyncdError as error:
        log.error("daemon.failed", error=error.message, hint=error.hint)  # noqa: TRY400 - expected: no traceback
        raise
    except Exception:
        log.exception("daemon.crashed")
        raise


async def _serve(loaded: Loaded, store: Store, lock: Lock, environ: Mapping[str, str], named: Path | None) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as services, asyncio.TaskGroup() as jobs:
            serving = _Serving(loaded, store, lock, environ, named, jobs)
            serving.hear_signals()
            await serving.begin(stack)
            tasks = [services.create_task(work, name=name) for name, work in serving.services()]
            serving.announce_ready()
            await serving.stopping.wait()
            serving.board.close()
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise only_error(errors, (SyncdError,)) from errors
    log.info("daemon.stopped")
    return ExitCode.DONE


class _Serving:
    """One life of the daemon: what it is made of, and what ties the parts together."""

    def __init__(
        self,
        loaded: Loaded,
        store: Store,
        lock: Lock,
        environ: Mapping[str, str],
        named: Path | None,
        jobs: asyncio.TaskGroup,
    ) -> None:
        self._store = store
        self._environ = environ
        self._settings = AppliedSettings(loaded, named, environ, now=time.time, accept=self._access)
        self._born_with = self._settings.current.settings
        self._notifier = Notifier.of(environ, os.getpid())
        self._inventory = Inventory(store, time.time)
        self._chronicle = Chronicle(time.time)
        self._telemetry = Telemetry(CollectorRegistry())
        self._memory = Memory(store.state, clock=time.time)
        self._servers = Servers(store, self._settings, self._chronicle, self._telemetry.exposition)
        self._servers_desk = DaemonServers(self._servers.fleet, self._servers.rollouts)
        self._collecting = Collecting(store, self._settings, self._servers_desk, clock=time.time)
        CollectionTelemetry(self._telemetry.registry, lambda: self._collecting.known)
        self._scrubbing = Scrubbing(
            store,
            self._settings,
            ScrubBook(store, clock=time.time, monotonic=time.monotonic),
            self._chronicle,
            times=Times(),
            on_damage=self._damaged,
        )
        ScrubTelemetry(
            self._telemetry.registry,
            self._scrubbing.book,
            lambda: self._settings.current.settings.scrub.every,
        )
        self._renewals = Renewals(store, self._servers_desk.replaced)
        self._repairs = Repairs(store, self._settings, lambda: self._daemon.desk("the daemon"), self._chronicle)
        RepairTelemetry(
            self._telemetry.registry,
            corrupt=lambda: len(self._repairs.waiting()),
            repaired=lambda: self._renewals.count,
            quarantined=lambda: self._repairs.quarantined,
        )
        self._ways = Ways(store, self._servers.rollouts.before_publish)
        self.stopping = asyncio.Event()
        self.board = Board(
            self._pull,
            jobs,
            clock=time.time,
            new_id=lambda: secrets.token_hex(6),
            notes=self._memory.jobs,
            on_change=self._job_changed,
        )
        self._reconcile = Reconcile(
            store=store,
            board=self.board,
            settings=self._settings,
            memory=self._memory,
            resolve=self._resolve,
            chronicle=self._chronicle,
            on_touch=self._inventory.poke,
        )
        self._reconcile.on_restore = self._telemetry.model_restored
        self._reconcile.refused = self._servers.rollouts.refused
        self._pin_telemetry = PinTelemetry(
            self._telemetry.registry,
            lambda: pins_info(self._settings.current, self._reconcile.holds, self._inventory.now),
        )
        self._pulse = Pulse(self._notifier, self._line)
        self._daemon = self._as_others_see_it()
        self._listeners = Listeners(
            self._daemon,
            socket=socket_path(self._born_with, environ, os.geteuid()),
            group=self._born_with.control.group,
        )
        health = Health(store, lock, lambda: self._reconcile.first_pass_done)
        self._doors = Doors(self._listeners, self._telemetry.exposition, health)
        self._in_force = self._settings.revision  # that everything here goes by
        self._used = self._settings.current
        self._not_applied: SyncdError | None = None
        self._new_in_force = asyncio.Condition()
        self._reload_asked = asyncio.Event()

    def _as_others_see_it(self) -> Daemon:
        return Daemon(
            store=self._store,
            board=self.board,
            settings=self._settings,
            reconcile=self._reconcile,
            inventory=self._inventory,
            chronicle=self._chronicle,
            rollouts=self._servers.rollouts,
            fleet=self._servers.fleet,
            ways=self._ways,
            servers=self._servers_desk,
            collecting=self._collecting,
            repairs=self._repairs,
            scrubbing=self._scrubbing,
            started=time.time(),
            needs_restart=self._needs_restart,
            fault=self._fault,
            docker_faults=self._servers.docker_faults,
        )

    # Beginning and end

    async def begin(self, stack: AsyncExitStack) -> None:
        """Open everything that can fail to open. ``stack`` closes it."""
        await stack.enter_async_context(self._ways)
        self._store.leases.lifetime = self._born_with.download.keep_partials
        await self._renew_ways(self._used)
        await self._inventory.refresh()
        self._telemetry.watch(
            board=self.board,
            count=lambda: self._inventory.now,
            desired=self._reconcile.desired,
            settings=self._settings_state,
        )
        await stack.enter_async_context(self._listeners)
        stack.push_async_callback(self._doors.close)
        await self._doors.adapt(self._born_with)

    def services(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """What runs until the end: each ends by cancellation, and the daemon with any that fails."""
        yield "settings", self._settings.run()
        yield "new settings", self._take_over_settings()
        yield "reloads", self._reload_when_asked()
        yield "reconcile", self._reconcile.run()
        yield "inventory", self._inventory.run()
        yield from self._servers.services()
        yield "collections", self._collecting.run()
        yield "renewals", self._renewals.run()
        yield "repairs", self._repairs.run()
        yield "scrubs", self._scrubbing.run()
        yield "pulse", self._pulse.run()
        yield "tidy", self._tidy()

    def announce_ready(self) -> None:
        """Everything listens, and work has begun."""
        if self.stopping.is_set():
            return
        log.info(
            "daemon.ready",
            version=__version__,
            store=str(self._store.path),
            models=len(self._settings.current.settings.models),
        )
        self._notifier.ready(self._line()[1])

    def hear_signals(self) -> None:
        """SIGTERM and SIGINT end the daemon, SIGHUP has the settings read anew, as soon as it has begun."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)

    def _stop(self, number: signal.Signals) -> None:
        if self.stopping.is_set():
            os._exit(128 + number)  # whoever asks twice does not want to wait for a slow disk
        log.info("daemon.stopping", signal=number.name)
        self._notifier.stopping()
        self.stopping.set()
        asyncio.get_running_loop().call_later(_STOP_WITHIN, _leave)

    # Jobs

    async def _pull(self, reference: Reference, report: Callable[[PullProgress], None]) -> PullOutcome:
        async with self._ways.used() as means:
            return await pull(reference, means, report)

    async def _resolve(self, reference: Reference) -> FetchedManifest:
        async with self._ways.used() as means:
            refuse(means.policy, reference.name, None)
            return await means.registry.manifest(reference)

    def _job_changed(self, view: JobView) -> None:
        self._pulse.stir()
        self._reconcile.job_changed(view)
        self._servers.job_changed(view)
        if view.state is JobState.RUNNING:
            self._chronicle.tell("job.started", name=str(view.reference), job=view.id, detail=view.asked_by)
            return
        self._telemetry.job_ended(view)
        if view.outcome is not None and view.outcome.moved_back is not None:
            self._pin_telemetry.tag_moved_back()
            before = rfc3339(view.outcome.moved_back)
            self._chronicle.tell(
                "model.moved_back", name=str(view.reference.name), detail=f"{view.outcome.digest}, published {before}"
            )
        self._inventory.poke()
        self._scrubbing.poke()  # it may have mended what a scrub had found
        how = view.state.value if view.error is None else f"{view.state.value}: {view.error.message}"
        self._chronicle.tell("job.ended", name=str(view.reference), job=view.id, detail=how)

    def _damaged(self, _names: tuple[ModelName, ...]) -> None:
        self._reconcile.poke()
        self._repairs.poke()

    async def _tidy(self) -> None:
        while True:
            try:
                taken = await expire(self._store, now=time.time())
                if taken.staged:
                    log.info("store.expired", files=len(taken.staged), bytes=taken.freed)
            except SyncdError as error:
                log.warning("store.expiry_failed", error=error.message)
            await asyncio.sleep(_TIDY_EVERY)

    # Settings

    def _access(self, loaded: Loaded) -> Access:
        credentials = self._environ.get("CREDENTIALS_DIRECTORY")
        own_key = Path(credentials) / _CREDENTIAL if credentials else None
        if own_key is None or not own_key.exists():
            own_key = ollama_key()
        return usable(loaded, self._environ, own_key=own_key)

    async def _take_over_settings(self) -> None:
        while True:
            revision = await self._next_revision()
            loaded, fault = self._settings.current, self._settings.fault
            # Refused ones may come right after others that were not, and nobody has gone by those yet.
            if fault is None or loaded is not self._used:
                await self._use(loaded)
            if revision > self._in_force:
                self._telemetry.settings_read(applied=fault is None)
                if fault is None:
                    self._chronicle.tell("settings.applied")
                else:
                    self._chronicle.tell("settings.refused", detail=fault.message)
            self._pulse.stir()
            async with self._new_in_force:
                self._in_force = revision
                self._new_in_force.notify_all()

    async def _next_revision(self) -> int:
        """The newest one, once there is one to go by, or it is time to try again what could not be opened."""
        try:
            async with asyncio.timeout(None if self._not_applied is None else _OPEN_AGAIN):
                return await self._settings.changed(self._in_force)
        except TimeoutError:
            return self._in_force

    async def _use(self, loaded: Loaded) -> None:
        """What the settings say, from now on. What cannot be opened is told, and the rest goes on."""
        self._used = loaded
        self._store.leases.lifetime = loaded.settings.download.keep_partials
        known, self._not_applied = self._not_applied, None
        try:
            await self._renew_ways(loaded)
            await self._doors.adapt(loaded.settings)
        except SyncdError as error:
            self._not_applied = error
            if known is None or known.message != error.message:
                log.error("settings.not_applied", error=error.message, hint=error.hint)  # noqa: TRY400 - expected
                self._chronicle.tell("settings.not_applied", detail=error.message)

    async def _renew_ways(self, loaded: Loaded) -> None:
        access = await in_thread(self._access, loaded)
        for notice in access.notices:
            log.warning("settings.notice", notice=notice)
        await self._ways.renew(loaded, access)

    async def _reload_when_asked(self) -> None:
        # One at a time: however often it is asked meanwhile, one more is what all of them get.
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            self._notifier.reloading(time.monotonic_ns())
            await self._settings.reload()
            asked = self._settings.revision
            async with self._new_in_force:
                await self._new_in_force.wait_for(lambda: self._in_force >= asked)  # noqa: B023 - it ends here
            for _ in range(_TRIES):
                if self._notifier.ready(self._line()[1]):
                    break
                await asyncio.sleep(_ROOM)

    def _fault(self) -> SyncdError | None:
        """What the settings' files say that is not so."""
        return self._settings.fault or self._not_applied

    def _needs_restart(self) -> tuple[str, ...]:
        then, now = self._born_with, self._settings.current.settings
        changed = {
            "store": then.store != now.store,
            "allow_network_filesystem": then.allow_network_filesystem != now.allow_network_filesystem,
            "control.socket": then.control.socket != now.control.socket,
            "control.group": then.control.group != now.control.group,
        }
        return tuple(key for key, differs in changed.items() if differs)

    def _settings_state(self) -> SettingsState:
        return SettingsState(loaded=self._settings.loaded_at, rejected=self._fault() is not None)

    def _line(self) -> tuple[bool, str]:
        running = [job.view for job in self.board.jobs() if job.view.state is JobState.RUNNING]
        fault = self._fault()
        return bool(running), status_line(running, self._reconcile.desired(), fault.message if fault else None)


def _leave() -> None:
    """Ten seconds are up: journals and the order of every write make that as safe as a power cut."""
    log.error("daemon.end_forced", after=_STOP_WITHIN)
    sys.stderr.flush()
    os._exit(1)
