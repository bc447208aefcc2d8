"""A store with one pulled model, and a doctor who looks at it in this process, as an operation would have it done."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from syncd.jobs.damage import Damage
from syncd.jobs.doctor import Diagnosis, Ears, doctor
from syncd.jobs.doctor_exam import Finding
from syncd.jobs.doctor_fix import Remedy, Treated, Treatment
from syncd.jobs.doctor_gather import Way
from syncd.jobs.doctor_kind import Severity
from syncd.jobs.mend import Mending, mend
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.jobs.surroundings import Surroundings
from syncd.store.root import Store
from tests.pull.world import blob_file, means, pulled, tag_file
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

DAY = 86400.0


@dataclass(slots=True)
class Visit:
    """What the doctor told. ``found``: in the order in which it was."""

    found: list[Finding] = field(default_factory=list)
    planned: list[Remedy] = field(default_factory=list)
    treated: list[Treated] = field(default_factory=list)
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis(()))

    @property
    def bad(self) -> list[str]:
        """The ids of what is worse than a note, in the first looks."""
        return [one.kind.id for one in self.found if one.severity is not Severity.NOTE]

    @property
    def left(self) -> list[str]:
        """Likewise, of what remains."""
        return [one.kind.id for one in self.diagnosis.findings if one.severity is not Severity.NOTE]

    def ids(self) -> list[str]:
        return [one.kind.id for one in self.found]

    def of(self, kind: str) -> Finding:
        """The finding of this id."""
        (one,) = [found for found in self.found if found.kind.id == kind]
        return one


@dataclass(frozen=True, slots=True)
class Patient:
    """``model`` was pulled into the store at ``path`` from ``registry``."""

    registry: ScriptedRegistry
    model: ModelHandle
    path: Path

    @property
    def weights(self) -> Path:
        return self.path / "blobs" / blob_file(self.model.weights)

    @property
    def tag(self) -> Path:
        return tag_file(self.path, self.model.name)

    @property
    def quarantined(self) -> list[Path]:
        return sorted((self.path / ".syncd" / "quarantine").iterdir())

    def assert_whole(self) -> None:
        """The model is published, and nothing is odd."""
        assert assert_store_whole(self.path)[self.model.name] == self.model.digest


async def patient_at(registry: ScriptedRegistry, path: Path) -> Patient:
    model = registry.add(build_model("mistral:7b"))
    await pulled(model.name, path)
    return Patient(registry, model, path)


async def visit(
    path: Path,
    *,
    fix: bool = False,
    dry_run: bool = False,
    rules: Rules | None = None,
    around: Surroundings | None = None,
    offline: bool = True,
    daemon: bool = False,
    clock: Callable[[], float] = time.time,
) -> Visit:
    """One call of the doctor, by a process of its own. ``around``: of rules that say nothing else."""
    rules = rules or Rules(floor=0, around=around or Surroundings())
    seen = Visit()
    with Store.open(path, create=False) as store:
        async with means(store) as everything:

            async def repair(damage: Damage) -> Mending:
                return await mend(store, everything, damage, keep=True, report=lambda _: None)

            book = ScrubBook(store, clock=clock, monotonic=time.monotonic)
            way = Way(rules=rules, scrubs=book, now=clock(), daemon=daemon, offline=offline)
            treatment = Treatment(store, rules, repair) if fix else None
            ears = Ears(seen.found.append, seen.planned.append, seen.treated.append)
            seen.diagnosis = await doctor(store, way, treatment, ears, dry_run=dry_run)
    return seen
