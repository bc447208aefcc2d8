"""The daemon as the API sees it: every wish of a caller ends here, and every answer is about what is so now."""

import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from syncd import __version__
from syncd.aio import in_thread
from syncd.api import pulls, v1
from syncd.api.catalogue import rfc3339
from syncd.api.pinned import PinsInfo
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.collecting import Collecting
from syncd.daemon.desk import DaemonDesk
from syncd.daemon.fleet import Fleet
from syncd.daemon.fleet_words import instance_info
from syncd.daemon.inventory import Inventory
from syncd.daemon.pinned import pins_info
from syncd.daemon.reconcile import Reconcile
from syncd.daemon.repairs import Repairs
from syncd.daemon.rollout import Rollouts
from syncd.daemon.rules import policy_of
from syncd.daemon.scrubbing import Scrubbing
from syncd.daemon.servers_desk import DaemonServers
from syncd.daemon.ways import Ways
from syncd.errors import BusyError, SyncdError
from syncd.jobs import remove as removal
from syncd.jobs.board import Board, Job, JobState
from syncd.jobs.policy import refuse
from syncd.jobs.remove import Removal
from syncd.jobs.verify import Verification, VerifyProgress, verify
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store
from syncd.text import printable

log = structlog.get_logger()

_MOST_PULLS = 64  # that run at once: each has files, locks and threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """Implements ``api.ports.Service``. ``started``: seconds since the epoch.

    ``fault``: why newer settings are refused, or what they ask for that cannot be had.
    """

    store: Store
    board: Board
    settings: AppliedSettings
    reconcile: Reconcile
    inventory: Inventory
    chronicle: Chronicle
    rollouts: Rollouts
    fleet: Fleet
    ways: Ways
    servers: DaemonServers
    collecting: Collecting
    repairs: Repairs
    scrubbing: Scrubbing
    started: float
    needs_restart: Callable[[], tuple[str, ...]]
    fault: Callable[[], SyncdError | None]
    docker_faults: Callable[[], tuple[str, ...]]

    def info(self) -> v1.DaemonInfo:
        """Who it is."""
        return v1.DaemonInfo(
            version=__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            store=printable(str(self.store.path), limit=4096),
            started=rfc3339(self.started),
        )

    def status(self) -> v1.Status:
        """Everything at a glance."""
        desired = self.reconcile.desired()
        return v1.Status(
            daemon=self.info(),
            settings=self._settings(),
            store=self._store(),
            models=desired,
            unmanaged=self._unmanaged(),
            jobs=tuple(pulls.job_info(job.view) for job in self.board.jobs()),
            rollouts=self.rollouts.status(),
            instances=tuple(instance_info(row) for row in self.fleet.matrix()),
            docker=tuple(printable(fault, limit=400) for fault in self.docker_faults()),
            pins=self.pins(),
            collection=self.collecting.info(),
            scrub=self.scrubbing.info(),
            repairs=self.repairs.waiting(),
        )

    def pins(self) -> PinsInfo | None:
        """What is pinned, and what is something else all the same."""
        return pins_info(self.settings.current, self.reconcile.holds, self.inventory.now)

    def pull(self, reference: Reference, *, by: str, insecure: bool = False) -> tuple[Job, bool]:
        """The job that pulls ``reference``, and whether this call started it.

        Something else than what the settings pin is refused, and so is one pull too many.
        """
        reference = self.settings.current.resolved(reference)
        self.settings.current.refuse_other_than_pinned(reference)
        refuse(policy_of(self.settings.current), reference.name, None)
        if insecure:
            # What Ollama's clients may ask for. Which hosts are spoken to without TLS is the settings' business.
            log.info("pull.insecure_asked", name=str(reference), by=by)
        before = {job.view.id for job in self.board.running(reference.name)}
        running = sum(job.view.state is JobState.RUNNING for job in self.board.jobs())
        if running >= _MOST_PULLS and not before:
            raise BusyError(
                f"{running} pulls are running already", hint="'syncd status' shows them; try again when one has ended"
            )
        job = self.board.pull(reference, asked_by=by)
        return job, job.view.id not in before

    async def remove(self, name: ModelName, *, by: str, dry_run: bool) -> Removal:
        """Remove a model, its pull cancelled first; one that the settings want is refused."""
        wanted_at = self.reconcile.guards(name)
        if wanted_at is not None:
            raise BusyError(
                f"{name} is wanted by the settings at {wanted_at}, and would be pulled again",
                hint="take it out there first, then remove it",
            )
        if dry_run:
            return await in_thread(removal.plan, self.store, name, time.time())
        removed = await removal.remove(self.store, name, now=time.time())
        log.info("model.removed", name=str(name), by=by)
        self.chronicle.tell("model.removed", name=str(name), detail=by)
        self.inventory.poke()
        return removed

    async def verify(
        self, names: tuple[ModelName, ...] | None, *, by: str, on_progress: Callable[[VerifyProgress], None]
    ) -> Verification:
        """Hash the blobs of these models, or of all."""
        found = await verify(self.store, names, on_progress=on_progress)
        log.info("store.verified", by=by, models=found.models, faults=len(found.faults))
        if found.faults:
            self.reconcile.poke()
            self.repairs.poke()
        return found

    async def reload(self, asked: v1.ReloadRequest, *, by: str) -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
        """Have servers load models anew, or prove them."""
        return await self.rollouts.ask(asked, by=by)

    def desk(self, by: str) -> DaemonDesk:
        """What operations work with that ``by`` asks for."""
        return DaemonDesk(
            store=self.store,
            settings=self.settings,
            ways=self.ways,
            servers=self.servers,
            scrubs=self.scrubbing.book,
            guards=self.reconcile.guards,
            on_change=self._changed,
            on_mending=self.repairs.ended,
            by=by,
        )

    def _changed(self, names: tuple[ModelName, ...]) -> None:
        self.inventory.poke()
        self.reconcile.poke()
        self.collecting.poke()
        self.repairs.poke()
        self.scrubbing.poke()
        for name in names:
            self.rollouts.published(name)
            self.fleet.published(name)

    def events(self) -> AsyncIterator[v1.Event]:
        """What happens from now on."""
        return self.chronicle.follow()

    def _settings(self) -> v1.SettingsInfo:
        fault = self.fault()
        return v1.SettingsInfo(
            files=tuple(printable(str(file.path), limit=4096) for file in self.settings.current.files),
            loaded=rfc3339(self.settings.loaded_at),
            fault=None if fault is None else printable(fault.message),
            needs_restart=self.needs_restart(),
        )

    def _store(self) -> v1.StoreInfo:
        count = self.inventory.now
        return v1.StoreInfo(
            path=printable(str(self.store.path), limit=4096),
            models=len(count.models),
            blobs=count.blobs,
            size=count.size,
            saved=count.saved,
            free=count.free,
            broken=count.broken,
            as_of=rfc3339(count.taken),
        )

    def _unmanaged(self) -> tuple[v1.UnmanagedModel, ...]:
        wanted = {model.name.name.folded for model in self.settings.current.settings.models}
        return tuple(
            v1.UnmanagedModel(
                name=str(one.name),
                digest=str(one.digest),
                size=one.size,
                left_over=self.reconcile.left_over(one.name),
            )
            for one in self.inventory.now.models
            if one.name.folded not in wanted
        )
