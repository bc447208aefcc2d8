"""``syncd doctor``: what is not as it should be, why that matters, what to do, and, where it is asked for, done."""

from pathlib import Path
from typing import Literal

import msgspec

from syncd.api.operation import Desk, Operation, Tell
from syncd.jobs.damage import Damage
from syncd.jobs.doctor import Diagnosis, Ears, doctor, judge_ground
from syncd.jobs.doctor_exam import Finding
from syncd.jobs.doctor_fix import Remedy, Treated, Treatment
from syncd.jobs.doctor_gather import Way
from syncd.jobs.doctor_kind import Severity
from syncd.jobs.mend import Mending, mend
from syncd.store.ground import look
from syncd.text import printable


class DoctorRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Look at store, servers, host and settings. No blob is read: that is what a scrub does.

    ``fix``: do what loses nothing; ``dry_run``: with that, tell the plan and do nothing. ``offline``: ask no registry
    what time it is.
    """

    fix: bool = False
    dry_run: bool = False
    offline: bool = False


class FindingLine(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be. ``id``: of its kind, the same for ever; docs/doctor.md has all of them.

    ``subject``: what it is found on. ``what``: what is wrong with it; ``why`` that matters; ``todo``: what to do.
    ``fix``: what ``fix`` does about this one; null: nothing.
    """

    event: Literal["finding"]
    id: str
    area: str
    severity: Literal["error", "warning", "note"]
    subject: str
    what: str
    why: str
    todo: str
    fix: str | None


class RemedyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan, before it is done. ``id`` and ``subject``: of the finding."""

    event: Literal["remedy"]
    id: str
    subject: str
    what: str


class TreatedLine(msgspec.Struct, frozen=True, kw_only=True):
    """How that step ended. ``what``: what was done, or why it was not."""

    event: Literal["treated"]
    id: str
    subject: str
    done: bool
    what: str


class Doctored(msgspec.Struct, frozen=True, kw_only=True):
    """What remains, by its severity. ``integrity``: how many of the errors are in the store. ``mended``: what is gone.

    ``opened``: whether the store could be opened; if not, only its file system was looked at.
    """

    event: Literal["doctored"]
    store: str
    errors: int
    warnings: int
    notes: int
    integrity: int
    mended: int
    dry_run: bool
    opened: bool = True


async def _doctor(desk: Desk, asked: DoctorRequest, tell: Tell) -> Doctored:
    way = Way(
        rules=desk.rules, scrubs=desk.scrubs, now=desk.now(), daemon=desk.servers is not None, offline=asked.offline
    )
    treatment = Treatment(desk.store, desk.rules, lambda damage: _mend(desk, damage)) if asked.fix else None

    def treated(ended: Treated) -> None:
        tell(treated_line(ended))
        if ended.done:
            desk.changed(*ended.names)

    ears = Ears(lambda one: tell(finding_line(one)), lambda one: tell(remedy_line(one)), treated)
    found = await doctor(desk.store, way, treatment, ears, dry_run=asked.dry_run)
    return doctored(found, desk.store.path, dry_run=asked.dry_run)


async def _mend(desk: Desk, damage: Damage) -> Mending:
    """What nobody can mend stays published, whatever the settings say of it: nothing is lost by a doctor."""
    async with desk.pulling() as means:
        ended = await mend(desk.store, means, damage, keep=True, report=lambda _: None)
    desk.mended(ended)
    if ended.repaired is not None and ended.repaired.replaced:
        desk.changed(*ended.repaired.models)
    return ended


def of_closed(path: Path, tell: Tell) -> Doctored | None:
    """What keeps the store at ``path`` from being opened, as far as its file system tells. Blocks.

    None: nothing that can be seen, or there is no store. Raise ``SyncdError``.
    """
    ground = look(path)
    findings = () if ground is None else judge_ground(ground)
    if not any(one.severity is Severity.ERROR for one in findings):
        return None
    for one in findings:
        tell(finding_line(one))
    return doctored(Diagnosis(findings), path, dry_run=False, opened=False)


def doctored(found: Diagnosis, store: Path, *, dry_run: bool, opened: bool = True) -> Doctored:
    """The last line."""
    return Doctored(
        event="doctored",
        store=printable(str(store), limit=4096),
        errors=found.count(Severity.ERROR),
        warnings=found.count(Severity.WARNING),
        notes=found.count(Severity.NOTE),
        integrity=found.of_integrity,
        mended=found.mended,
        dry_run=dry_run,
        opened=opened,
    )


def finding_line(found: Finding) -> FindingLine:
    """A finding as a line."""
    kind = found.kind
    return FindingLine(
        event="finding",
        id=kind.id,
        area=kind.area.value,
        severity=found.severity.value,
        subject=_shown(found.subject),
        what=_shown(found.what),
        why=kind.why,
        todo=kind.todo,
        fix=kind.fix if found.mends else None,
    )


def remedy_line(remedy: Remedy) -> RemedyLine:
    """A step as a line."""
    found = remedy.finding
    return RemedyLine(event="remedy", id=found.kind.id, subject=_shown(found.subject), what=remedy.words)


def treated_line(ended: Treated) -> TreatedLine:
    """Its end as a line."""
    found = ended.remedy.finding
    return TreatedLine(
        event="treated", id=found.kind.id, subject=_shown(found.subject), done=ended.done, what=_shown(ended.what)
    )


def _shown(text: str) -> str:
    return printable(text, limit=1000)


DOCTOR = Operation(
    path="doctor",
    asked=DoctorRequest,
    lines={"finding": FindingLine, "remedy": RemedyLine, "treated": TreatedLine},
    ended=("doctored", Doctored),
    run=_doctor,
    writes=lambda asked: asked.fix and not asked.dry_run,
)
