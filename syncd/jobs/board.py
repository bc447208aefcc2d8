"""The pulls of a process: one per name, whoever asks; who follows them sees the newest moment, never a backlog.

A pull belongs to the board and not to who asked for it: a caller who goes away changes nothing, ``cancel`` stops it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, cast

import structlog

from syncd.aio import in_thread
from syncd.errors import CancelledByRemovalError, NotFoundError, SyncdError
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.oci.name import ModelName, Reference

log = structlog.get_logger()

_REMEMBERED = 100  # jobs that have ended


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CancelledByRequestError(SyncdError):
    """Somebody stopped the job."""


class ProcessStoppingError(SyncdError):
    """The process ends in good order, and the job with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One moment of one job. Times in seconds since the epoch.

    ``asked_by``: in words, whose wish it was first. ``revision`` grows with every change. ``outcome`` and ``error``:
    how it ended.
    """

    id: str
    reference: Reference
    asked_by: str
    started: float
    kind: str = "pull"
    state: JobState = JobState.RUNNING
    ended: float | None = None
    progress: PullProgress | None = None
    outcome: PullOutcome | None = None
    error: SyncdError | None = None
    revision: int = 0


class Job:
    """A job as its followers see it."""

    def __init__(self, view: JobView) -> None:
        self.view = view
        self._waiting: set[asyncio.Future[None]] = set()
        self._over = asyncio.Event()

    async def changed(self, after: int) -> JobView:
        """Wait until there is a newer moment than revision ``after``; an ended job stays as it is."""
        while self.view.revision <= after and self.view.state is JobState.RUNNING:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)
        return self.view

    async def ended(self) -> JobView:
        """Wait until it runs no more."""
        await self._over.wait()
        return self.view

    def become(self, **changes: object) -> None:
        """The next moment. For the board."""
        self.view = replace(self.view, revision=self.view.revision + 1, **changes)  # type: ignore[arg-type]  # fields by name
        if self.view.state is not JobState.RUNNING:
            self._over.set()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class JobNotes(Protocol):
    """What outlives the process: which jobs it was at. Both block, for a moment."""

    def begun(self, job: JobView) -> None:
        """It is about to start."""

    def ended(self, job: JobView) -> None:
        """It has ended, well or not; a process that dies under it does not get here."""

    def parked(self, job: JobView) -> None:
        """It was cut off by an orderly end of the process: the next one goes on with it at once."""


Work = Callable[[Reference, Callable[[PullProgress], None]], Awaitable[PullOutcome]]


class Board:
    """Runs pulls in ``group``; remembers the last ones that ended."""

    def __init__(
        self,
        work: Work,
        group: asyncio.TaskGroup,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        notes: JobNotes,
        on_change: Callable[[JobView], None],
    ) -> None:
        """``clock``: seconds since the epoch. ``on_change`` hears of every start and end, on the loop."""
        self._work = work
        self._group = group
        self._clock = clock
        self._new_id = new_id
        self._notes = notes
        self._on_change = on_change
        self._running: dict[str, Job] = {}  # by their ids
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled_by: dict[str, str] = {}
        self._ended: deque[Job] = deque(maxlen=_REMEMBERED)
        self._closed = False

    def pull(self, reference: Reference, *, asked_by: str) -> Job:
        """The running pull of ``reference``, or a new one. Raise ``SyncdError`` while the process shuts down."""
        for job in self.running(reference.name):
            # Not one that was told to stop: that was before, and somebody else's wish.
            if job.view.reference.digest == reference.digest and job.view.id not in self._cancelled_by:
                return job
        if self._closed:
            raise ProcessStoppingError("the daemon is stopping", hint="try again when it has started")
        job = Job(JobView(id=self._new_id(), reference=reference, asked_by=asked_by, started=self._clock()))
        self._running[job.view.id] = job
        self._group.create_task(self._run(job), name=f"pull {reference}")
        self._on_change(job.view)
        return job

    def jobs(self) -> list[Job]:
        """Those that run, then those that ended, the latest first."""
        return [*self._running.values(), *reversed(self._ended)]

    def find(self, job_id: str) -> Job:
        """Raise ``NotFoundError``."""
        for job in self.jobs():
            if job.view.id == job_id:
                return job
        raise NotFoundError(f"there is no job {job_id[:40]!r}", hint="'syncd status' shows what runs")

    def running(self, name: ModelName) -> list[Job]:
        """The pulls of this name, in whatever case and pinned to whatever."""
        return [job for job in self._running.values() if job.view.reference.name.folded == name.folded]

    def cancel(self, job: Job, *, by: str) -> bool:
        """Ask a job to stop; whether it was running. It ends a moment later, and leaves what it fetched."""
        if job.view.state is not JobState.RUNNING:
            return False
        self._cancelled_by.setdefault(job.view.id, by)
        if (task := self._tasks.get(job.view.id)) is not None:
            task.cancel()
        return True

    @property
    def closed(self) -> bool:
        """Whether it takes no more work: how its jobs end from then on says nothing about them."""
        return self._closed

    def close(self) -> None:
        """Take no more work, and ask what runs to stop: it resumes in the next life."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    async def _run(self, job: Job) -> None:
        job_id = job.view.id
        # Not before: a task that is cancelled ahead of its first turn never has one, and its job would run for ever.
        self._tasks[job_id] = cast("asyncio.Task[None]", asyncio.current_task())
        with structlog.contextvars.bound_contextvars(job=job_id):
            try:
                await self._note(self._notes.begun, job)
                stopped = self._closed or job_id in self._cancelled_by
                changes = self._cancelled(job.view) if stopped else await self._outcome(job)
            except asyncio.CancelledError:
                changes = self._cancelled(job.view)
            finally:
                self._running.pop(job_id, None)
                self._tasks.pop(job_id, None)
                self._cancelled_by.pop(job_id, None)
            job.become(**changes, ended=self._clock())
            self._ended.append(job)
            self._on_change(job.view)  # at once: what counts running jobs must not miss this one for a moment
            parked = isinstance(job.view.error, ProcessStoppingError)
            await self._note(self._notes.parked if parked else self._notes.ended, job)

    async def _outcome(self, job: Job) -> dict[str, object]:
        def report(progress: PullProgress) -> None:
            if progress != job.view.progress:
                job.become(progress=progress)

        try:
            outcome = await self._work(job.view.reference, report)
        except CancelledByRemovalError as error:
            return {"state": JobState.CANCELLED, "error": error}
        except SyncdError as error:
            log.warning("job.failed", name=str(job.view.reference), error=error.message)
            return {"state": JobState.FAILED, "error": error}
        except Exception as error:  # a bug ends its job and no other: design, "Concurrency"
            log.exception("job.crashed", name=str(job.view.reference))
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            bug = SyncdError(f"unexpected {what}", hint="this is a bug in syncd: the daemon's log shows where")
            return {"state": JobState.FAILED, "error": bug}
        return {"state": JobState.DONE, "outcome": outcome}

    def _cancelled(self, view: JobView) -> dict[str, object]:
        return {"state": JobState.CANCELLED, "error": self._why_cancelled(view)}

    def _why_cancelled(self, view: JobView) -> SyncdError:
        by = self._cancelled_by.get(view.id)
        if by is None:
            return ProcessStoppingError("the daemon is stopping", hint="it goes on with this when it starts again")
        return CancelledByRequestError(
            f"{view.reference} was cancelled by {by}", hint="what it fetched is kept: 'syncd pull' goes on there"
        )

    async def _note(self, note: Callable[[JobView], None], job: Job) -> None:
        try:
            await in_thread(note, job.view)
        except SyncdError as error:
            log.warning("job.note_failed", error=error.message)
        except Exception:  # a bug here must not end the other jobs
            log.exception("job.note_crashed", name=str(job.view.reference))
