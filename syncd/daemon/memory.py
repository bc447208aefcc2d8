"""What the daemon remembers between its lives: of each model of the settings, and which jobs it was at.

Losing it loses no model: everything is checked once more. So a file that cannot be read is set aside, loudly.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog

from syncd.daemon.desired import LONGEST_BACKOFF, Moment, Standing, interval
from syncd.errors import InvalidDigestError, InvalidNameError, SyncdError
from syncd.jobs.board import JobView
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference
from syncd.store.state import StateFiles

log = structlog.get_logger()

_MODELS = "models.json"
_JOB = "job-"
_ASIDE = "unreadable-"

T = TypeVar("T")


class ModelMemory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one model. Digests as text; times in seconds since the epoch.

    ``published``: what the reconcile itself published last (``prune`` takes away nothing else). The others as in
    ``desired.Standing``.
    """

    published: str | None = None
    upstream: str | None = None
    base: str | None = None
    announced: str | None = None
    checked: float | None = None
    due: float | None = None
    retry_at: float | None = None
    failures: int = 0
    reason: str | None = None


def recall_digest(text: str | None) -> Digest | None:
    """A digest as the memory has it; None for what is none."""
    try:
        return None if text is None else Digest.parse(text)
    except InvalidDigestError:
        return None


def recall(memory: ModelMemory, moment: Moment, every: float) -> Standing:
    """What is known of a model at the beginning of a life. Whatever the clock did, no wait is longer than usual."""
    due = 0.0 if memory.due is None else min(max(0.0, memory.due - moment.epoch), interval(every, 1.0))
    retry = 0.0 if memory.retry_at is None else min(max(0.0, memory.retry_at - moment.epoch), LONGEST_BACKOFF)
    return Standing(
        upstream=recall_digest(memory.upstream),
        base=recall_digest(memory.base),
        announced=recall_digest(memory.announced),
        checked=None if memory.checked is None else min(max(0.0, memory.checked), moment.epoch),
        due=moment.now + due,
        retry_at=moment.now + retry,
        failures=max(0, memory.failures),
        reason=memory.reason,
    )


def remembered(standing: Standing, published: Digest | None, moment: Moment) -> ModelMemory:
    """The reverse."""
    mine, upstream, base, announced = (
        None if digest is None else str(digest)
        for digest in (published, standing.upstream, standing.base, standing.announced)
    )
    waits = standing.retry_at > moment.now
    return ModelMemory(
        published=mine,
        upstream=upstream,
        base=base,
        announced=announced,
        checked=standing.checked,
        due=moment.at(standing.due) if standing.checked is not None else None,
        retry_at=moment.at(standing.retry_at) if waits else None,
        failures=standing.failures,
        reason=standing.reason if standing.failures or waits else None,
    )


class JobMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was begun. ``deaths``: how many daemons died under it, one after the other.

    ``running``: by the daemon that wrote this. ``at``: when it began, or when its last death was found (epoch).
    """

    reference: str
    asked_by: str
    deaths: int
    running: bool
    at: float


class LeftBehind(msgspec.Struct, frozen=True, kw_only=True):
    """A job that the last daemon left: it died under it, or (no ``deaths``) was told to end. ``at``: epoch."""

    reference: Reference
    asked_by: str
    deaths: int
    at: float


class Jobs:
    """``board.JobNotes`` on disk: one small file per job that runs, or that a daemon did not end."""

    def __init__(self, files: StateFiles, *, clock: Callable[[], float]) -> None:
        """Count the deaths that are found. ``clock``: seconds since the epoch. Blocks for a moment."""
        self._files = files
        self._clock = clock
        self._left: dict[tuple[str, str], tuple[str, LeftBehind]] = {}
        for file in files.names():
            if file.startswith(_JOB):
                self._recall(file)

    def left_behind(self) -> list[LeftBehind]:
        """The jobs that the last daemon did not end, and that have not been begun again since."""
        return [left for _, left in self._left.values()]

    def forget(self, left: LeftBehind) -> None:
        """Nobody wants it any more."""
        file, _ = self._left.pop(_key(left.reference), ("", None))
        if file:
            self._try(lambda: self._files.remove(file))

    def begun(self, job: JobView) -> None:
        """It is about to start."""
        mine = {key: self._left[key] for key in list(self._left) if key[0] == job.reference.name.folded}
        deaths = mine[key][1].deaths if (key := _key(job.reference)) in mine else 0
        try:
            self._files.write(_file(job.id), msgspec.json.encode(_note(job, deaths=deaths, running=True)))
            for file, _ in mine.values():
                self._files.remove(file)
        except SyncdError as error:
            log.warning("job.note_failed", error=error.message)  # a full disk is the pull's to tell of
        for other in mine:
            self._left.pop(other, None)

    def ended(self, job: JobView) -> None:
        """It has ended, well or not."""
        self._files.remove(_file(job.id))

    def parked(self, job: JobView) -> None:
        """It was cut off by an orderly end: nobody died under it, and the next life goes on with it at once."""
        self._files.write(_file(job.id), msgspec.json.encode(_note(job, deaths=0, running=False)))

    def _recall(self, file: str) -> None:
        note = _read(self._files, file, JobMemory)
        if note is None:
            return
        try:
            reference = Reference.parse(note.reference)
        except (InvalidNameError, InvalidDigestError):
            _set_aside(self._files, file, "its name is none")
            return
        if note.running:
            note = msgspec.structs.replace(note, running=False, deaths=note.deaths + 1, at=self._clock())
            log.warning("job.left_behind", name=note.reference, deaths=note.deaths)
            self._try(lambda: self._files.write(file, msgspec.json.encode(note)))
        other, found = self._left.get(_key(reference), ("", None))
        if found is not None:  # a daemon died between two steps of ``begun``
            self._try(lambda: self._files.remove(other))
        deaths = max(note.deaths, found.deaths if found else 0)
        left = LeftBehind(reference=reference, asked_by=note.asked_by, deaths=deaths, at=note.at)
        self._left[_key(reference)] = (file, left)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except SyncdError as error:
            log.warning("job.note_failed", error=error.message)


class Memory:
    """Everything that outlives the process. ``jobs`` is for the board."""

    def __init__(self, files: StateFiles, *, clock: Callable[[], float]) -> None:
        """Read what the last life left. ``clock``: seconds since the epoch. Blocks for a moment."""
        self.jobs = Jobs(files, clock=clock)
        self._files = files
        self._models = dict(_read(files, _MODELS, dict[str, ModelMemory]) or {})
        self._saved = dict(self._models)

    def of(self, name: ModelName) -> ModelMemory:
        """What is remembered of the model; nothing is a value, too."""
        return self._models.get(name.qualified, ModelMemory())

    def names(self) -> list[ModelName]:
        """The models of which anything is remembered."""
        found = []
        for text in self._models:
            try:
                found.append(ModelName.parse(text))
            except InvalidNameError:
                log.warning("memory.not_a_name", name=text)
        return found

    def put(self, name: ModelName, memory: ModelMemory) -> None:
        """Remember this of it; ``save`` makes it last."""
        if memory == ModelMemory():
            self.forget(name)
        else:
            self._models[name.qualified] = memory

    def forget(self, name: ModelName) -> None:
        """Nothing is remembered of it any more."""
        self._models.pop(name.qualified, None)

    @property
    def changed(self) -> bool:
        """Whether there is anything to save."""
        return self._models != self._saved

    def snapshot(self) -> dict[str, ModelMemory]:
        """What ``save`` is to write: taken on the loop, written in a thread."""
        return dict(self._models)

    def save(self, snapshot: dict[str, ModelMemory]) -> None:
        """Durable when it returns. Blocks. Raise ``SyncdError``."""
        self._files.write(_MODELS, msgspec.json.format(msgspec.json.encode(snapshot)))
        self._saved = snapshot


def _read(files: StateFiles, file: str, kind: type[T]) -> T | None:
    try:
        content = files.read(file)
        return None if content is None else msgspec.json.decode(content, type=kind)
    except (SyncdError, msgspec.MsgspecError) as error:
        _set_aside(files, file, str(error))
        return None


def _set_aside(files: StateFiles, file: str, why: str) -> None:
    log.error("memory.unreadable", file=file, error=why)
    try:
        content = files.read(file)
        if content is not None:
            files.write(_ASIDE + file, content)
        files.remove(file)
    except SyncdError as error:
        log.warning("memory.not_set_aside", file=file, error=error.message)


def _file(job_id: str) -> str:
    return f"{_JOB}{job_id}.json"


def _note(job: JobView, *, deaths: int, running: bool) -> JobMemory:
    return JobMemory(
        reference=_text(job.reference), asked_by=job.asked_by, deaths=deaths, running=running, at=job.started
    )


def _text(reference: Reference) -> str:
    name = reference.name.qualified
    return f"{name}@{reference.digest}" if reference.digest else name


def _key(reference: Reference) -> tuple[str, str]:
    return reference.name.folded, str(reference.digest)
