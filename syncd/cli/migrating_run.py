"""The steps of ``syncd migrate``, in their order. Each finds out from the world what is left of it to do."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from syncd.api import events, migrations, v1
from syncd.cli import adopting, adopting_page, mending, running
from syncd.cli.checking import watch
from syncd.cli.failure import report
from syncd.cli.here import Here
from syncd.cli.migrating_adopting import Adopting
from syncd.cli.migrating_page import View
from syncd.cli.migrating_servers import ended_on, failures, server_view
from syncd.cli.place import Limits
from syncd.cli.pulling import view_for
from syncd.cli.pulling_here import pull
from syncd.cli.session import Session
from syncd.cli.there import There
from syncd.daemon.access import Access
from syncd.daemon.rules import policy_of
from syncd.errors import ExitCode, IntegrityError, SyncdError
from syncd.jobs.adopt import AdoptMeans
from syncd.jobs.adoption import Chosen, Decision
from syncd.jobs.migrate import quarantine, quarantine_unmended, survey, unverified
from syncd.jobs.migration import Plan, Served, ServerView, Shared, plan, server_work
from syncd.oci.name import ModelName, Reference
from syncd.store import layout
from syncd.store.blobs import BlobStatus
from syncd.store.hands import SourceDesk
from syncd.store.models import StoredModel
from syncd.store.quarantine import used_bytes
from syncd.store.root import Store
from syncd.store.source import SourceStore
from syncd.store.source_scan import Scan

HINT = "run the same command again to go on where it stopped"
Step = Literal["hash", "quarantine", "adopt", "pull", "verify", "servers"]


class UnmendedError(IntegrityError):
    """Something corrupt or incomplete, which nothing has replaced."""


@dataclass(slots=True, kw_only=True)
class Migration:
    """One call. ``there``: the daemon, if one runs. ``access``: what opens registries, if none does.

    ``scans``: of the sources. ``errors``: what failed and was not told yet; ``code``: the exit code so far.
    ``unadopted``: by folded name.
    """

    session: Session
    view: View
    there: There | None
    access: Access | None
    scans: tuple[Scan, ...]
    wanted: Sequence[Reference]
    desk: SourceDesk
    delete: bool
    as_json: bool
    quiet: bool
    code: int = ExitCode.DONE
    errors: list[SyncdError] = field(default_factory=list)
    unadopted: dict[str, SyncdError] = field(default_factory=dict)

    def look(self, store: Store | None, *, record: bool) -> Shared:
        """What lies in the shared folder, hashed."""
        path = store.path if store else self.session.choice.path
        if not (path / layout.BLOBS).is_dir():
            return Shared(path)
        self._step("hash")
        with SourceStore.open(path) as folder, watch(as_json=self.as_json) as shown:
            work = survey(folder, store, lambda now: shown.show(events.verifying(now)), record=record)
            return running.run(work, hint=HINT)

    def plan(self, shared: Shared, way: Chosen, *, dry_run: bool) -> Plan:
        """What is to be done, told."""
        made = plan(shared, self.scans, self.wanted, way)
        models = [
            Served(name, digest, math.inf if name in made.renewed else None) for name, digest in made.served.items()
        ]
        told = migrations.planned(
            made,
            server_work(self._servers(), sorted(models, key=lambda one: str(one.name))),
            store=str(shared.path),
            daemon=self.there is not None,
            dry_run=dry_run,
            delete=self.delete,
        )
        self.view.plan(made, told)
        return made

    def run(self, made: Plan, shared: Shared, store: Store, started: float) -> int:
        """Do it; the exit code. ``started``: on the monotonic clock."""
        had = sum(_held(scan) for scan in self.scans)
        before = used_bytes(store.path) + had
        if made.manifests or made.strays or made.corrupt:
            self._step("quarantine")
            running.run(quarantine(store, made, self.view.quarantined), hint=HINT)
        freed = self._adopt(made, store)
        self._pull(store)
        lost = running.run(quarantine_unmended(store, made, self.view.quarantined), hint=HINT)
        for name in lost:
            self._failed(
                UnmendedError(
                    f"{name} was corrupt or incomplete, and nothing could replace it",
                    hint=f"'syncd pull {name}' fetches it; what there was lies in {store.quarantine.path}",
                )
            )
        self._judge_sources(made, store)
        self._verify(store, shared)
        servers = self._ask_servers(made, store)
        disk = migrations.Disk(
            before=before,
            after=used_bytes(store.path) + had - freed,
            saved=freed,
            savable=sum(_duplicates(scan, store) for scan in self.scans) if not self.delete else 0,
            quarantine=used_bytes(store.quarantine.path),
        )
        models = tuple(str(one.name) for one in _published(store))
        self.view.migrated(
            migrations.Migrated(
                "migrated", str(store.path), models, servers, disk, round(time.monotonic() - started, 3)
            )
        )
        for error in self.errors:
            report(error, as_json=self.as_json)
        return self.code

    # Its steps

    def _step(self, step: Step) -> None:
        self.view.step(migrations.MigrationStep("step", step))

    def _failed(self, error: SyncdError) -> None:
        """Told at the end. Bytes that are lost count more than whatever else failed before."""
        self.errors.append(error)
        self._exit_with(error.exit_code)

    def _exit_with(self, code: int) -> None:
        if not self.code or code == ExitCode.INTEGRITY:
            self.code = code

    def _adopt(self, made: Plan, store: Store) -> int:
        """Bytes that the sources lost."""
        taking = [model for model in made.adoption.models if model.decision is Decision.ADOPT]
        if not taking and not (self.delete and self.scans):
            return 0
        self._step("adopt")
        loaded = self.session.loaded
        means = AdoptMeans(
            store=store,
            desk=self.desk,
            floor=loaded.settings.min_free,
            delete=self.delete,
            policy=policy_of(loaded),
        )
        shown = Adopting(adopting_page.view(quiet=self.quiet, as_json=self.as_json), self.session.notice)
        chosen = made.adoption if self.delete else replace(made.adoption, models=tuple(taking))
        with shown:
            # What is not taken may be pulled yet: how it ends is judged by what is there then.
            running.run(adopting.adopt_all(chosen, means, shown), hint=HINT, threads=adopting.THREADS)
        self.unadopted = shown.failures
        return shown.freed

    def _pull(self, store: Store) -> None:
        missing = [one for one in self.wanted if not is_whole(store, one)]
        if not missing:
            return
        self._step("pull")
        shown = view_for(quiet=self.quiet, as_json=self.as_json)
        session = replace(self.session, quiet=True)
        if self.there is not None:
            code = self.there.pull(missing, Limits(None, None), shown)
        else:
            code = pull(session, missing, Limits(None, None), shown, self.access)
        self._exit_with(code)

    def _judge_sources(self, made: Plan, store: Store) -> None:
        """A model of a source that nobody has, now that all is done."""
        there = {name.folded for name in store.models.names()}
        for model in made.adoption.models:
            if model.name is not None and model.name.folded in there:
                continue
            error = self.unadopted.get(model.name.folded) if model.name else None
            error = error or adopting.refusal(model)
            if error is not None:
                self._failed(error)

    def _verify(self, store: Store, shared: Shared) -> None:
        names = unverified(store, shared)
        if not names:
            return
        self._step("verify")
        where = self.there or Here(replace(self.session, quiet=True))
        faults, _ = where.verify(names, watch(as_json=self.as_json))
        for fault in faults:
            words = mending.fault_line(fault).rstrip()
            self._failed(UnmendedError(words, hint="'syncd pull NAME' fetches again what is damaged"))

    # The servers

    def _servers(self) -> tuple[ServerView, ...]:
        if self.there is None:
            return ()
        return tuple(server_view(one) for one in self.there.status().instances)

    def _ask_servers(self, made: Plan, store: Store) -> tuple[migrations.MigratedServer, ...] | None:
        if self.there is None:
            return None
        models = [
            Served(
                one.name,
                one.manifest.digest,
                # Whoever was proved before now may have been proved with the bytes that were wrong.
                math.inf if one.name in made.renewed else _renewed(store, one),
            )
            for one in _published(store)
            if one.manifest.weights
        ]
        results: dict[tuple[str, str], v1.ReloadTried] = {}
        work = server_work(self._servers(), models)
        if work:
            self._step("servers")
        for server in work:
            if server.reload and not self._ask(server.server, server.reload, results, prove=False):
                break  # the others go on serving as they do
        for server in work:
            if server.prove:
                self._ask(server.server, server.prove, results, prove=True)
        views = self._servers()
        ended = tuple(ended_on(one, models, results) for one in views)
        for error in failures(ended):
            self._failed(error)
        return ended

    def _ask(
        self, server: str, names: Iterable[ModelName], results: dict[tuple[str, str], v1.ReloadTried], *, prove: bool
    ) -> bool:
        """Whether all went well."""

        def tell(line: v1.ReloadTried) -> None:
            results[line.instance, line.model] = line
            self.view.tried(line)

        if self.there is None:
            return False
        asked = v1.ReloadRequest(models=tuple(map(str, names)), instances=(server,), prove=prove)
        try:
            ended = self.there.reload(asked, tell)
        except SyncdError as error:
            self._failed(error)
            return False
        return all(one.state == "done" for one in ended.rollouts)


def is_whole(store: Store, wanted: Reference) -> bool:
    """Whether the store has it, in the version that is wanted, with every blob hashed."""
    name = store.models.find(wanted.name)
    try:
        manifest = name and store.models.read(name)
    except SyncdError:
        return False  # what is published is no manifest: the pull that follows replaces it
    if not manifest or wanted.digest not in {None, manifest.digest}:
        return False
    return all(store.blobs.look(blob)[0] is BlobStatus.STORED for blob in manifest.blobs)


def _published(store: Store) -> list[StoredModel]:
    return [one for one in store.models.list() if isinstance(one, StoredModel)]


def _renewed(store: Store, model: StoredModel) -> float | None:
    times = [store.quarantine.replaced_at(blob.digest) for blob in model.manifest.weights]
    return max((one for one in times if one is not None), default=None)


def _held(scan: Scan) -> int:
    return sum(blob.size for blob in scan.blobs.values()) + sum(stray.size for stray in scan.strays)


def _duplicates(scan: Scan, store: Store) -> int:
    """Bytes of a source that the store has as well."""
    known = {blob.digest for one in _published(store) for blob in one.manifest.blobs}
    return sum(blob.size for digest, blob in scan.blobs.items() if digest in known)
