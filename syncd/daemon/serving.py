"""One life of the daemon: what it is made of, and what ties the parts together."""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from syncd import __version__
from syncd.api.catalogue import rfc3339
from syncd.api.listeners import Listeners
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.collecting import Collecting
from syncd.daemon.doors import Doors, Health
from syncd.daemon.followed import Times
from syncd.daemon.in_force import GoingBySettings, InForce, needs_restart
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
from syncd.daemon.telemetry import Telemetry
from syncd.daemon.telemetry_collect import CollectionTelemetry
from syncd.daemon.telemetry_integrity import ScrubTelemetry
from syncd.daemon.telemetry_pins import PinTelemetry
from syncd.daemon.telemetry_repair import RepairTelemetry
from syncd.daemon.usable import service_access
from syncd.daemon.ways import Ways
from syncd.errors import SyncdError
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

_TIDY_EVERY = 6 * 3600.0  # seconds


class Serving:
    """The parts, each made once. ``services`` are those that run by themselves; what is asked for runs in ``jobs``."""

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
        access = partial(service_access, environ=environ)
        self._settings = AppliedSettings(loaded, named, environ, now=time.time, accept=access)
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
        self._in_force = InForce(
            self._settings,
            GoingBySettings(
                store=store,
                ways=self._ways,
                doors=self._doors,
                access=access,
                notifier=self._notifier,
                pulse=self._pulse,
                line=lambda: self._line()[1],
                telemetry=self._telemetry,
                chronicle=self._chronicle,
            ),
        )

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
            needs_restart=lambda: needs_restart(self._born_with, self._settings.current.settings),
            fault=lambda: self._in_force.fault,
            docker_faults=self._servers.docker_faults,
        )

    # Beginning and end

    async def begin(self, stack: AsyncExitStack) -> None:
        """Open everything that can fail to open. ``stack`` closes it."""
        await stack.enter_async_context(self._ways)
        await self._in_force.begin()
        await self._inventory.refresh()
        self._telemetry.watch(
            board=self.board,
            count=lambda: self._inventory.now,
            desired=self._reconcile.desired,
            settings=lambda: self._in_force.state,
        )
        await stack.enter_async_context(self._listeners)
        stack.push_async_callback(self._doors.close)
        await self._doors.adapt(self._born_with)

    def services(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """What runs until the end: each ends by cancellation, and the daemon with any that fails."""
        yield "settings", self._settings.run()
        yield "new settings", self._in_force.take_over()
        yield "reloads", self._in_force.reload_when_asked()
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

    def reload(self) -> None:
        """Have the settings read anew, as soon as that service runs."""
        self._in_force.ask_reload()

    def stop(self) -> None:
        """Let everything end; a manager hears of it."""
        self._notifier.stopping()
        self.stopping.set()

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

    def _line(self) -> tuple[bool, str]:
        running = [job.view for job in self.board.jobs() if job.view.state is JobState.RUNNING]
        fault = self._in_force.fault
        return bool(running), status_line(running, self._reconcile.desired(), fault.message if fault else None)
