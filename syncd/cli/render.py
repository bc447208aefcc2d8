"""How a pull looks: bars on a terminal, lines elsewhere, NDJSON for programs, nothing for those who want quiet."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

import msgspec

from syncd.api import events
from syncd.cli import words
from syncd.cli.failure import error_lines
from syncd.errors import SyncdError
from syncd.jobs.progress import Phase, PullOutcome, PullProgress, Totals
from syncd.oci.name import Reference
from syncd.text import printable, size

Clock = Callable[[], float]

_STEPS = {
    Phase.WAITING: "another process pulls it; waiting",
    Phase.RESOLVING: "asking for the manifest",
    Phase.FETCHING: "fetching",
    Phase.PUBLISHING: "publishing",
}

Steps = Mapping[Phase, str]
"""What a line says of each phase; of one that is not in it, nothing."""


class PullView(Protocol):
    """Shows pulls, one after another, while it is entered."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def show(self, progress: PullProgress) -> None:
        """One moment of a pull. Called up to about twenty times a second."""

    def done(self, outcome: PullOutcome) -> None:
        """The pull ended well."""

    def result(self, text: str) -> None:
        """What came of it, in a line for people."""

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """The pull failed."""


def failure_lines(reference: Reference, error: SyncdError) -> str:
    """The error of one pull, with the name that it belongs to."""
    name = str(reference.name)
    return error_lines(error, "" if name in error.message else f"{name}: ")


class Quiet:
    """Only errors."""

    def __init__(self, errors: TextIO) -> None:
        self._errors = errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def show(self, progress: PullProgress) -> None:
        """Nothing."""

    def done(self, outcome: PullOutcome) -> None:
        """Nothing."""

    def result(self, text: str) -> None:
        """Nothing."""

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """The error, with the name that it belongs to."""
        self._errors.write(failure_lines(reference, error))
        self._errors.flush()


class Lines(Quiet):
    """A line for each phase, and one every few seconds: for log files and pipes."""

    def __init__(
        self, results: TextIO, errors: TextIO, *, clock: Clock, every: float = 5.0, steps: Steps = _STEPS
    ) -> None:
        """``results`` gets what each pull did, ``errors`` its progress. ``every``: seconds between two lines."""
        super().__init__(errors)
        self._results = results
        self._clock = clock
        self._every = every
        self._steps = steps
        self._meter = words.Meter()
        self._phase: Phase | None = None
        self._retries = 0
        self._next = 0.0

    def show(self, progress: PullProgress) -> None:
        """A line, if the phase is new or it is time for one."""
        now, totals = self._clock(), Totals.of(progress)
        self._meter.see(now, totals)
        if progress.phase is not self._phase:
            self._phase = progress.phase
            self._next = now + self._every
            if step := self._steps.get(progress.phase):
                amount = f" {size(totals.size)}" if progress.phase is Phase.FETCHING else ""
                self._write(progress, step + amount)
        elif now >= self._next and totals.size:
            self._next = now + self._every
            self._write(progress, self._line(progress, totals, now))

    def _line(self, progress: PullProgress, totals: Totals, now: float) -> str:
        parts = [f"{totals.percent}% of {size(totals.size)}", f"{size(self._meter.rate(now))}/s"]
        if (seconds := self._meter.seconds_left(now)) is not None:
            parts.append(f"{words.left(seconds)} left")
        if progress.retries > self._retries:
            self._retries = progress.retries
            parts.append(trouble(progress))
        return ", ".join(parts)

    def _write(self, progress: PullProgress, text: str) -> None:
        self._errors.write(f"{printable(str(progress.reference.name))}: {text}\n")
        self._errors.flush()

    def done(self, outcome: PullOutcome) -> None:
        """What the pull did."""
        self.result(words.outcome(outcome))

    def result(self, text: str) -> None:
        """The line."""
        self._forget()
        self._results.write(text + "\n")
        self._results.flush()

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """The error."""
        self._forget()
        super().failed(reference, error)

    def _forget(self) -> None:
        self._meter, self._phase, self._retries = words.Meter(), None, 0


class Ndjson(Quiet):
    """One JSON object a line (``syncd.api.events``); errors go to people as well."""

    def __init__(self, results: TextIO, errors: TextIO, *, clock: Clock, every: float = 0.5) -> None:
        """``every``: seconds between two progress events."""
        super().__init__(errors)
        self._results = results
        self._clock = clock
        self._every = every
        self._phase: Phase | None = None
        self._next = 0.0

    def show(self, progress: PullProgress) -> None:
        """An event, if the phase is new or it is time for one."""
        now = self._clock()
        fresh = progress.phase is not self._phase
        self._phase = progress.phase
        if fresh and (step := events.step(progress)):
            self._write(step)
        elif progress.phase in {Phase.WAITING, Phase.FETCHING} and progress.blobs and (fresh or now >= self._next):
            self._next = now + self._every
            self._write(events.progress(progress))

    def done(self, outcome: PullOutcome) -> None:
        """The event for the end."""
        self._phase = None
        self._write(events.ended(outcome))

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """The event for the error, and the error."""
        self._phase = None
        super().failed(reference, error)
        self._write(events.failed(error, str(reference.name)))

    def _write(self, event: msgspec.Struct) -> None:
        self._results.write(events.line(event))
        self._results.flush()


def trouble(progress: PullProgress) -> str:
    """How often it had to try again, and why, the last time."""
    times = f"{progress.retries} {'retry' if progress.retries == 1 else 'retries'}"
    return f"{times}: {printable(progress.trouble, limit=120)}" if progress.trouble else times
