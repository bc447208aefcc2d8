"""The doctor: looks, judges, and treats what can be treated, until a look finds nothing more that was not tried."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from syncd.jobs import doctor_around, doctor_kinds, doctor_kinds_around, doctor_store
from syncd.jobs.doctor_exam import Exam, Finding
from syncd.jobs.doctor_fix import Remedy, Treated, Treatment, plan
from syncd.jobs.doctor_gather import Way, gather
from syncd.jobs.doctor_kind import Area, Severity
from syncd.store.ground import Ground
from syncd.store.root import Store

_MOST_LOOKS = 5  # what is closed hides what is in it, one level at a time
KINDS = (*doctor_kinds.KINDS, *doctor_kinds_around.KINDS)
"""All kinds of findings, by area, in the order in which they are shown."""

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the last look found. ``mended``: how many findings are no more."""

    findings: tuple[Finding, ...]
    mended: int = 0

    def count(self, severity: Severity) -> int:
        """How many are that bad."""
        return sum(one.severity is severity for one in self.findings)

    @property
    def of_integrity(self) -> int:
        """Errors in the store: what is published, or what it stands on."""
        bad = (one for one in self.findings if one.severity is Severity.ERROR)
        return sum(one.kind.area in {Area.MODELS, Area.STORE} for one in bad)


def judge(exam: Exam) -> tuple[Finding, ...]:
    """All that is not as it should be, by area; pure."""
    found = [
        *doctor_store.on_models(exam),
        *doctor_store.on_ground(exam.ground),
        *doctor_store.on_store(exam),
        *doctor_around.on_servers(exam),
        *doctor_around.on_host(exam),
        *doctor_around.on_settings(exam),
    ]
    return _sorted(found)


def judge_ground(ground: Ground) -> tuple[Finding, ...]:
    """What keeps a store from being opened, as far as the ground tells; pure."""
    return _sorted(doctor_store.on_ground(ground))


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda one: (_RANK[one.kind], one.subject)))


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears of what: a finding when it is first seen, a step that is planned, and how it ended."""

    found: Callable[[Finding], None]
    planned: Callable[[Remedy], None]
    treated: Callable[[Treated], None]


async def doctor(
    store: Store, way: Way, treatment: Treatment | None, ears: Ears, *, dry_run: bool = False
) -> Diagnosis:
    """Look and tell; with a ``treatment`` also mend, and look again. ``dry_run``: the plan is told, and not executed.

    Raise ``SyncdError`` where the store cannot be looked at.
    """
    told: set[tuple[str, str]] = set()
    tried: set[tuple[str, str]] = set()
    for left in reversed(range(_MOST_LOOKS)):
        findings = judge(await gather(store, way))
        for finding in findings:
            if finding.key not in told:
                told.add(finding.key)
                ears.found(finding)
        steps = [one for one in plan(findings) if one.finding.key not in tried]
        if treatment is None or not steps or not left:
            break
        for step in steps:
            tried.add(step.finding.key)
            ears.planned(step)
            if not dry_run:
                ears.treated(await treatment.give(step))
        if dry_run:
            break
    return Diagnosis(findings, mended=len(told - {finding.key for finding in findings}))
