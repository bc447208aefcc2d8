"""The board of jobs: one pull per name, followers who see the newest moment, and ends that are told apart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest

from syncd.errors import NotFoundError, RegistryUnavailableError, SyncdError
from syncd.jobs.board import Board, Job, JobState, JobView
from syncd.jobs.progress import Phase, PullOutcome, PullProgress
from syncd.oci.digest import Digest
from syncd.oci.name import Reference

MISTRAL = Reference.parse("mistral:7b")
DIGEST = Digest.of(b"a manifest")


def outcome(reference: Reference) -> PullOutcome:
    return PullOutcome(
        reference=reference,
        digest=DIGEST,
        current=False,
        size=10,
        blobs=1,
        fetched_blobs=1,
        fetched_bytes=10,
        found_bytes=0,
        seconds=0.5,
    )


@dataclass
class Notebook:
    """Remembers what was noted, in order."""

    lines: list[str] = field(default_factory=list)

    def begun(self, job: JobView) -> None:
        self.lines.append(f"begun {job.id}")

    def ended(self, job: JobView) -> None:
        self.lines.append(f"ended {job.id} {job.state}")

    def parked(self, job: JobView) -> None:
        self.lines.append(f"parked {job.id}")


@dataclass
class Bench:
    """A board whose pulls wait for a word."""

    notes: Notebook = field(default_factory=Notebook)
    changes: list[JobState] = field(default_factory=list)
    calls: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    result: Callable[[Reference], PullOutcome] = outcome
    reports: list[Callable[[PullProgress], None]] = field(default_factory=list)

    async def work(self, reference: Reference, report: Callable[[PullProgress], None]) -> PullOutcome:
        self.calls += 1
        self.reports.append(report)
        report(PullProgress(reference, Phase.RESOLVING))
        await self.go_on.wait()
        return self.result(reference)

    @asynccontextmanager
    async def board(self) -> AsyncIterator[Board]:
        numbers = count(1)
        async with asyncio.TaskGroup() as group:
            yield Board(
                self.work,
                group,
                clock=lambda: 1000.0,
                new_id=lambda: f"j{next(numbers)}",
                notes=self.notes,
                on_change=lambda view: self.changes.append(view.state),
            )


async def ended(job: Job) -> JobView:
    async with asyncio.timeout(30):
        view = job.view
        while view.state is JobState.RUNNING:
            view = await job.changed(view.revision)
        return view


async def test_all_who_ask_for_one_name_get_one_job() -> None:
    bench = Bench()
    async with bench.board() as board:
        jobs = {board.pull(Reference.parse(name), asked_by="somebody") for name in ("mistral:7b", "Mistral:7B")}
        bench.go_on.set()
        (job,) = jobs
        assert (await ended(job)).outcome == outcome(MISTRAL)

    assert bench.calls == 1
    assert bench.changes == [JobState.RUNNING, JobState.DONE]


async def test_a_pinned_pull_is_another_job_than_the_tags() -> None:
    bench = Bench()
    async with bench.board() as board:
        bench.go_on.set()
        one, other = board.pull(MISTRAL, asked_by="a"), board.pull(Reference(MISTRAL.name, DIGEST), asked_by="a")
        assert one is not other
        await ended(one)
        await ended(other)


async def test_a_follower_sees_the_newest_moment_and_no_backlog() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        first = await job.changed(0)
        for retries in range(1, 100):
            bench.reports[0](PullProgress(MISTRAL, Phase.FETCHING, retries=retries))
        newest = await job.changed(first.revision)
        bench.go_on.set()

    assert newest.progress is not None
    assert newest.progress.retries == 99


async def test_a_follower_who_leaves_changes_nothing() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        follower = asyncio.create_task(job.changed(10))
        await asyncio.sleep(0)
        follower.cancel()
        bench.go_on.set()
        assert (await ended(job)).state is JobState.DONE


async def test_cancelling_names_who_asked_for_it() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        await job.changed(0)
        assert board.cancel(job, by="alice")
        view = await ended(job)
        assert not board.cancel(job, by="bob")

    assert view.state is JobState.CANCELLED
    assert view.error is not None
    assert "alice" in view.error.message
    assert bench.notes.lines == ["begun j1", "ended j1 cancelled"]


async def test_an_expected_failure_ends_its_job_only() -> None:
    def fail(_reference: Reference) -> PullOutcome:
        raise RegistryUnavailableError("registry: no answer")

    bench = Bench(result=fail)
    async with bench.board() as board:
        bench.go_on.set()
        view = await ended(board.pull(MISTRAL, asked_by="a"))

    assert view.state is JobState.FAILED
    assert view.error is not None
    assert view.error.message == "registry: no answer"


async def test_a_bug_ends_its_job_only_and_says_that_it_is_one() -> None:
    def crash(_reference: Reference) -> PullOutcome:
        raise ZeroDivisionError("division by zero")

    bench = Bench(result=crash)
    async with bench.board() as board:
        bench.go_on.set()
        view = await ended(board.pull(MISTRAL, asked_by="a"))
        bench.result = outcome
        again = await ended(board.pull(MISTRAL, asked_by="a"))

    assert view.error is not None
    assert view.error.message == "unexpected ZeroDivisionError: division by zero"
    assert again.state is JobState.DONE


async def test_a_closed_board_stops_what_runs_and_takes_no_more() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        await job.changed(0)
        board.close()
        view = await ended(job)
        with pytest.raises(SyncdError, match="stopping"):
            board.pull(MISTRAL, asked_by="a")

    assert view.state is JobState.CANCELLED
    assert bench.notes.lines == ["begun j1", "parked j1"]


@pytest.mark.parametrize("ending", ["cancel", "close"])
async def test_a_job_that_is_stopped_before_its_first_turn_ends_like_any(ending: str) -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        if ending == "cancel":
            assert board.cancel(job, by="b")
        else:
            board.close()
        view = await ended(job)

    assert view.state is JobState.CANCELLED
    assert bench.calls == 0
    assert bench.changes == [JobState.RUNNING, JobState.CANCELLED]
    assert bench.notes.lines[-1].startswith("ended j1" if ending == "cancel" else "parked j1")


async def test_who_asks_after_a_cancel_does_not_get_the_job_that_is_ending() -> None:
    bench = Bench()
    async with bench.board() as board:
        first = board.pull(MISTRAL, asked_by="a")
        await first.changed(0)
        board.cancel(first, by="b")
        second = board.pull(MISTRAL, asked_by="c")
        assert second is not first
        assert board.jobs() == board.running(MISTRAL.name) == [first, second]
        assert board.pull(MISTRAL, asked_by="d") is second
        bench.go_on.set()
        views = [await ended(first), await ended(second)]

    assert [view.state for view in views] == [JobState.CANCELLED, JobState.DONE]


async def test_an_end_is_told_before_anybody_can_see_the_job_gone() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        bench.go_on.set()
        while job.view.state is JobState.RUNNING:
            assert bench.changes == [JobState.RUNNING]
            await asyncio.sleep(0)

        assert bench.changes == [JobState.RUNNING, JobState.DONE]


async def test_notes_that_fail_whatever_way_end_no_job() -> None:
    bench = Bench()
    bench.notes.begun = bench.notes.ended = lambda _: 1 // 0  # type: ignore[method-assign,assignment] - a bug, on purpose
    async with bench.board() as board:
        bench.go_on.set()
        view = await ended(board.pull(MISTRAL, asked_by="a"))

    assert view.state is JobState.DONE


async def test_jobs_are_found_while_they_run_and_for_a_while_after() -> None:
    bench = Bench()
    async with bench.board() as board:
        job = board.pull(MISTRAL, asked_by="a")
        assert board.running(MISTRAL.name) == [job]
        bench.go_on.set()
        await ended(job)
        assert board.running(MISTRAL.name) == []
        assert board.find(job.view.id) is job
        with pytest.raises(NotFoundError):
            board.find("nobody")
