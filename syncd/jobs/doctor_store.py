"""What a doctor's look at a store means. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from syncd.jobs import doctor_kinds as kinds
from syncd.jobs.collection import GRACE_SECONDS
from syncd.jobs.damage import DamageKind
from syncd.jobs.doctor_exam import Exam, Finding
from syncd.jobs.doctor_kind import Kind
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.ground import Ability, Ground
from syncd.store.trees import Oddity, Spot
from syncd.text import size

_SHOWN = 3  # of many, in a sentence
_OVERDUE = 2.0  # intervals without a scrub
_DAY = 86400.0
_OTHERS = 0o055
_LOCKS = frozenset({Ability.LOCK, Ability.EXCLUDE})
_BY_ODDITY: Mapping[Oddity, Kind] = {
    Oddity.STRAY_FILE: kinds.STRAY_FILE,
    Oddity.STRAY_FOLDER: kinds.STRAY_FOLDER,
    Oddity.EMPTY_FOLDER: kinds.EMPTY_FOLDER,
    Oddity.UNFINISHED: kinds.UNFINISHED,
    Oddity.SPECIAL: kinds.SPECIAL_FILE,
    Oddity.COLON: kinds.COLON,
    Oddity.EMPTY_MANIFEST: kinds.EMPTY_MANIFEST,
    Oddity.BROKEN_MANIFEST: kinds.BROKEN_MANIFEST,
    Oddity.MANIFEST_LIST: kinds.MANIFEST_LIST,
    Oddity.CLOSED: kinds.NOT_READABLE,
    Oddity.OPEN: kinds.WRITABLE,
}


def on_models(exam: Exam) -> Iterator[Finding]:
    """Of ``manifests/`` and ``blobs/``."""
    for spot in exam.odd:
        if spot.oddity is not Oddity.FOREIGN:
            yield _odd(spot, exam)
    yield from case_conflicts(model.name for model in exam.models)
    # A blob that cannot be read for its mode, or lies there as a link, is told of as that.
    told = {spot.digest for spot in exam.odd if spot.oddity is Oddity.LINK}
    for damage in exam.damages:
        if damage.blob.digest in told:
            continue
        kind = kinds.MISSING_BLOB if damage.kind is DamageKind.MISSING else kinds.DAMAGED_BLOB
        users = _some(map(str, damage.models))
        what = f"{damage.detail} ({size(damage.blob.size)}); {users} needs it"
        yield replace(Finding.of(kind, str(damage.blob.digest), what), mends=True, damage=damage)


def _odd(spot: Spot, exam: Exam) -> Finding:
    kind = kinds.LINK if spot.leads else kinds.DEAD_LINK if spot.oddity is Oddity.LINK else _BY_ODDITY[spot.oddity]
    mends, what = kind.fix is not None, kind.title
    match spot.oddity:
        case Oddity.CLOSED | Oddity.OPEN:
            what = f"its mode is {spot.mode:04o}, and should be {spot.right_mode:04o}"
            mends = spot.uid == exam.owner  # nobody else may change it
        case Oddity.UNFINISHED:
            mends = exam.now - spot.modified > GRACE_SECONDS
            what = "left by an Ollama" if mends else "an Ollama may be at it: it is younger than an hour"
        case Oddity.LINK | Oddity.SPECIAL | Oddity.BROKEN_MANIFEST | Oddity.MANIFEST_LIST:
            what = spot.detail
        case Oddity.EMPTY_MANIFEST:
            what = "it is empty" if spot.name is None else f"{spot.name} has a manifest of 0 bytes"
    return replace(Finding.of(kind, spot.place, what), mends=mends, spot=spot)


def case_conflicts(names: Iterable[ModelName]) -> Iterator[Finding]:
    """Parts of stored names that differ from each other in case only (ollama server/routes.go, getExistingName)."""
    spellings: dict[tuple[int, str], dict[str, ModelName]] = {}
    for name in sorted(names):
        for position, part in enumerate(name.parts):
            spellings.setdefault((position, part.casefold()), {}).setdefault(part, name)
    for known in spellings.values():
        (first, name), *others = known.items()
        for other, rival in others:
            yield Finding.of(kinds.CASE, str(rival), f"{other!r} differs from {first!r} of {name} in case only")


def on_ground(ground: Ground) -> Iterator[Finding]:
    """Of the file system and whose the store is. Also of a store that cannot be opened."""
    place = str(ground.path)
    names = {uid for part, uid in ground.owners.items() if part != "."}
    if len(names) > 1:
        whose = ", ".join(f"{part} of uid {uid}" for part, uid in ground.owners.items() if part != ".")
        yield Finding.of(kinds.SHARED_STORE, place, whose)
    if ground.mode & _OTHERS != _OTHERS:
        yield Finding.of(kinds.CLOSED_STORE, place, f"its mode is {ground.mode:04o}")
    for part in ground.elsewhere:
        yield Finding.of(kinds.OTHER_MOUNT, f"{place}/{part}", f"it lies on another mount than {layout.OWN}/staging")
    if ground.network:
        yield Finding.of(kinds.NETWORK, place, f"its file system is {ground.kind}")
    on = f"on {ground.kind}" if ground.kind else "on its file system"
    for ability, why in ground.lacking:
        if ability in _LOCKS:
            yield Finding.of(kinds.WEAK_LOCKS, place, f"{on}: {why}")
        elif ability is Ability.PREALLOCATE:
            yield Finding.of(kinds.NO_RESERVE, place, f"{on}: {why}")
        else:
            yield Finding.of(kinds.INCAPABLE, f"{place}: {ability.value}", f"{on}: {why}")


def on_store(exam: Exam) -> Iterator[Finding]:
    """Of all that is neither a model nor the ground."""
    yield from _foreign(exam)
    yield from _space(exam)
    place = f"{exam.store}/{layout.OWN}"
    if exam.quarantined:
        names = _some(one.name for one in exam.quarantined)
        taken = size(sum(one.size for one in exam.quarantined))
        yield Finding.of(kinds.QUARANTINE, f"{place}/{layout.QUARANTINE}", f"{len(exam.quarantined)}, {taken}: {names}")
    if exam.staged:
        taken = size(sum(one.size for one in exam.staged))
        pulls = len({one.digest for one in exam.staged if one.digest})
        yield Finding.of(kinds.PARTIALS, f"{place}/{layout.STAGING}", f"{taken} of {pulls} blobs")
    if exam.leases:
        yield Finding.of(kinds.LEASES, f"{place}/{layout.LEASES}", f"{exam.leases} of them")
    if exam.trash:
        yield Finding.of(kinds.TRASH, f"{place}/{layout.TRASH}", f"{exam.trash} files")
    for reference in exam.wanted:
        held = exam.holds.get(reference.name)
        if held is not None and reference.digest not in {None, held}:
            what = f"held at {held}, and the settings pin it to {reference.digest}"
            yield Finding.of(kinds.PINS, str(reference.name), what)
    yield from _scrubs(exam)


def _foreign(exam: Exam) -> Iterator[Finding]:
    by_owner: dict[int, list[str]] = {}
    for spot in exam.odd:
        if spot.oddity is Oddity.FOREIGN:
            by_owner.setdefault(spot.uid, []).append(spot.place)
    for uid, places in sorted(by_owner.items()):
        what = f"{len(places)} files and folders belong to it, and the store to uid {exam.owner}: {_some(places)}"
        yield Finding.of(kinds.FOREIGN_FILE, f"uid {uid}", what)


def _space(exam: Exam) -> Iterator[Finding]:
    largest = max(exam.models, key=lambda one: one.manifest.size, default=None)
    needed = exam.floor + (0 if largest is None else largest.manifest.size)
    if exam.ground.free < needed:
        whom = "" if largest is None else f" for {largest.name}"
        what = f"{size(exam.ground.free)} are free, and {size(needed)} may be needed{whom}"
        yield Finding.of(kinds.LITTLE_SPACE, str(exam.store), what)


def _scrubs(exam: Exam) -> Iterator[Finding]:
    place = str(exam.store)
    if not exam.models:
        return
    if exam.scrub_every is None:
        if exam.scrubbed is None:
            yield Finding.of(kinds.NEVER_SCRUBBED, place, "nobody has read it over, and [scrub] every is not set")
        return
    last = exam.scrubbed if exam.scrubbed is not None else exam.since
    if last is not None and exam.now - last > _OVERDUE * exam.scrub_every:
        every = f"[scrub] every is {exam.scrub_every / _DAY:.3g} days"
        days = f"{(exam.now - last) / _DAY:.3g} days"
        when = f"in {days} none has ended" if exam.scrubbed is None else f"the last one ended {days} ago"
        yield Finding.of(kinds.NO_SCRUB, place, f"{every}, and {when}")


def _some(names: Iterable[str]) -> str:
    """A few of them, and how many more."""
    every = list(names)
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
