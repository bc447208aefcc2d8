"""The servers' part of the daemon, put together: who watches them, who follows their containers, who rolls out."""

import random
import time
from collections.abc import Coroutine, Iterator

from syncd.api.exposition import Exposition
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.discovery import Discovery
from syncd.daemon.fleet import Fleet
from syncd.daemon.reconcile import InForce
from syncd.daemon.rollout import Rollouts
from syncd.daemon.telemetry_instances import InstanceTelemetry
from syncd.daemon.telemetry_rollout import RolloutTelemetry
from syncd.instances.docker import Engine
from syncd.instances.model import Instance
from syncd.jobs.board import JobState, JobView
from syncd.oci.name import ModelName
from syncd.store.root import Store


class Servers:
    """``fleet`` knows how they stand, ``rollouts`` brings versions to them, ``discovery`` follows their containers."""

    def __init__(self, store: Store, settings: InForce, chronicle: Chronicle, exposition: Exposition) -> None:
        """``exposition``: of the metrics. Blocks for a moment."""
        self._settings = settings
        telemetry = InstanceTelemetry(exposition)
        self.fleet = Fleet(
            store=store,
            settings=settings,
            chronicle=chronicle,
            on_probe=telemetry.probed,
            on_start=self._started,
            held=self._is_held,
        )
        telemetry.watch(self.fleet.matrix)
        self.rollouts = Rollouts(
            store=store,
            servers=self.fleet,
            engine=self._engine,
            settings=settings,
            chronicle=chronicle,
            telemetry=RolloutTelemetry(exposition.registry),
            clock=time.time,
        )
        self.discovery = Discovery(settings, self.fleet, store.path, random=random.random)

    def docker_faults(self) -> tuple[str, ...]:
        """Why Docker cannot be followed right now, or what it tells of that cannot be meant, in words."""
        fault = self.discovery.fault
        return (*((fault.message,) if fault is not None else ()), *self.discovery.faults)

    def services(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """What runs until the end: each ends by cancellation, and the daemon with any that fails."""
        yield "fleet", self.fleet.run()
        yield "discovery", self.discovery.run()
        yield "rollouts", self.rollouts.run()

    def job_changed(self, view: JobView) -> None:
        """A pull began, or has ended and may have published something."""
        self.rollouts.job_changed(view)
        if view.state is not JobState.RUNNING:
            self.fleet.published(view.reference.name)

    def _is_held(self, instance: str, name: ModelName) -> bool:
        return self.rollouts.held(instance, name)

    def _started(self, instance: Instance) -> None:
        self.rollouts.server_started(instance)

    def _engine(self) -> Engine | None:
        url = self._settings.current.settings.docker.url
        return None if url is None else Engine(url)
