"""What the reconcile does to one model, and what is known of it afterwards. Every failure ends here."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from syncd.daemon.chronicle import Chronicle
from syncd.daemon.desired import Action, Check, Moment, Pull, Restore, interval
from syncd.daemon.followed import Followed, Times
from syncd.errors import CancelledByRemovalError, SyncdError
from syncd.jobs.board import Board, Job, JobState, JobView
from syncd.jobs.progress import Phase
from syncd.jobs.restore import Restoration, restore
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.root import Store
from syncd.text import printable

log = structlog.get_logger()

ASKED_BY = "the settings"
_PULLS = 2  # at once
_CHECKS = 4
_RESTORES = 8
_SOON = 1.0  # seconds until another look at a name that somebody else is at


class Acts:
    """Checks, pulls and restores, only so many at once."""

    def __init__(
        self,
        store: Store,
        board: Board,
        chronicle: Chronicle,
        *,
        resolve: Callable[[Reference], Awaitable[FetchedManifest]],
        on_restore: Callable[[], None],
        times: Times,
    ) -> None:
        self._store = store
        self._board = board
        self._chronicle = chronicle
        self._resolve = resolve
        self._on_restore = on_restore
        self._times = times
        self._pulls = asyncio.Semaphore(_PULLS)
        self._checks = asyncio.Semaphore(_CHECKS)
        self._restores = asyncio.Semaphore(_RESTORES)

    async def do(self, model: Followed, action: Check | Pull | Restore) -> None:
        """Do it, unless by its turn something else is to be done."""
        try:
            match action:
                case Check():
                    async with self._checks:
                        if isinstance(self.next(model), Check):
                            await self._check(model)
                case Pull():
                    async with self._pulls:
                        if isinstance(self.next(model), Pull):
                            await self._pull(model)
                case Restore():
                    async with self._restores:
                        if isinstance(self.next(model), Restore):
                            await self._restore(model)
        except SyncdError as error:
            self._failed(model, error)
        except Exception as error:  # a bug with one model is no reason to drop the others: design, "Concurrency"
            log.exception("reconcile.crashed", name=str(model.wish.reference))
            self._failed(model, _unexpected(error))

    def next(self, model: Followed) -> Action:
        """What is to be done to it now."""
        return model.next(self._times.now(), pulled=bool(self._board.running(model.wish.reference.name)))

    def ended(self, model: Followed, view: JobView) -> None:
        """A job of its name has ended. A pull of the tag is as good as a check, whoever asked for it."""
        of_the_tag = view.kind == "pull" and view.reference.digest is None and model.wish.pin is None
        if of_the_tag and view.outcome is not None and view.asked_by != ASKED_BY:
            moment = self._times.now()
            model.standing = model.standing.pulled(view.outcome.digest, self._due(model, moment), moment)

    async def _check(self, model: Followed) -> None:
        base = model.seen.digest if model.seen else None
        found = await self._resolve(Reference(model.wish.reference.name))
        moment = self._times.now()
        model.standing = model.standing.checked_now(found.manifest.digest, base, self._due(model, moment), moment)

    async def _pull(self, model: Followed) -> None:
        if self._board.closed:
            return
        reference, pin, seen = model.wish.reference, model.wish.pin, model.seen
        lost = (pin or seen.expected) if seen is not None and seen.lost(pin) else None
        job = self._board.pull(reference, asked_by=ASKED_BY)
        view = await _ended(job)
        moment = self._times.now()
        if view.outcome is None and (reference != model.wish.reference or self._board.closed):
            return  # it resumes in the next life; or something else is wanted by now
        if view.outcome is not None:
            if view.asked_by == ASKED_BY and not view.outcome.current:
                model.published = view.outcome.digest
            # Another version that comes instead is an update.
            if model.standing.gone == view.outcome.digest or (lost == view.outcome.digest and not view.outcome.current):
                self._on_restore()
                self._chronicle.tell("model.restored", name=str(reference.name), detail="its bytes were fetched again")
            # What the tag holds says a check: a held one was pulled by its digest.
            due = self._due(model, moment) if model.wish.held is None else moment.now
            model.standing = model.standing.pulled(view.outcome.digest, due, moment)
            return
        error = view.error or SyncdError("the pull ended without an outcome")
        if view.state is JobState.CANCELLED and not isinstance(error, CancelledByRemovalError):
            model.standing = model.standing.put_off(error.message, moment)
        else:
            raise error

    async def _restore(self, model: Followed) -> None:
        name, pin = model.wish.reference.name, model.wish.pin
        was, began = model.seen, self._times.now()
        try:
            result = await restore(self._store, name, pin, beneath=self._fetches(name))
        except SyncdError as error:
            log.warning("model.not_restored", name=str(name), error=error.message)
            model.standing = model.standing.not_restored(error.message, began, self._times.now())
            return
        except Exception as error:  # a bug, as in ``do``; nor may it be met again without a pause
            log.exception("reconcile.crashed", name=str(name))
            model.standing = model.standing.not_restored(_unexpected(error).message, began, self._times.now())
            return
        moment = self._times.now()
        match result:
            case Restoration.RESTORED:
                model.standing = model.standing.restored(began, moment)
                why = (was and was.broken) or ("removed" if was and was.digest is None else "replaced")
                self._on_restore()
                self._chronicle.tell("model.restored", name=str(name), detail=printable(why))
            case Restoration.GONE:
                model.standing = replace(model.standing, gone=pin or (was.expected if was else None))
            case Restoration.BUSY:
                model.standing = replace(model.standing, restore_at=moment.now + _SOON)
            case Restoration.INTACT:
                pass

    def _fetches(self, name: ModelName) -> bool:
        """Whether a pull of this process is past getting the name's lock, and not yet at publishing."""
        moments = [job.view.progress for job in self._board.running(name)]
        return any(progress is not None and progress.phase is Phase.FETCHING for progress in moments)

    def _failed(self, model: Followed, error: SyncdError) -> None:
        moment = self._times.now()
        model.standing = model.standing.failed(error, moment, self._times.random())
        log.warning(
            "model.failing",
            name=str(model.wish.reference),
            error=error.message,
            failures=model.standing.failures,
            retry_in=round(model.standing.retry_at - moment.now),
        )

    def _due(self, model: Followed, moment: Moment) -> float:
        return moment.now + interval(model.wish.every, self._times.random())


def _unexpected(error: Exception) -> SyncdError:
    return SyncdError(f"unexpected {type(error).__name__}: {error}")


async def _ended(job: Job) -> JobView:
    view = job.view
    while view.state is JobState.RUNNING:
        view = await job.changed(view.revision)
    return view
