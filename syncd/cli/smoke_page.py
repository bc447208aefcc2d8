"""A smoke test's figures as programs get them (``Report``, ``Moment``), and as people read them; pure."""

from typing import Literal

import msgspec

from syncd.cli.sheets import Row, Sheet, Tone
from syncd.cli.status_page import Page
from syncd.jobs.latency import Latencies
from syncd.jobs.latency import Percentiles as Found
from syncd.jobs.smoke import Smoke, Tally
from syncd.jobs.survey import Survey
from syncd.text import printable

_TEXT_LIMIT = 200  # characters of what a server said
_SECOND = 1.0


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds."""

    p50: float
    p90: float
    p99: float
    max: float


class Failed(msgspec.Struct, frozen=True):
    """So many failures of one kind. ``status``: of the answers, where there were any; ``message``: of the first."""

    reason: str
    status: int | None
    count: int
    message: str


class Counts(msgspec.Struct, frozen=True):
    """Requests to one model on one server. ``unfinished``: sent, and no end of them was seen.

    ``since_due`` and ``since_sent``: good answers and timeouts, from when a request was due and from when it was sent.
    """

    instance: str
    model: str
    ways: tuple[str, ...]
    sent: int
    succeeded: int
    failed: int
    not_sent: int
    unfinished: int
    since_due: Percentiles | None
    since_sent: Percentiles | None
    failures: tuple[Failed, ...]


class Unanswered(msgspec.Struct, frozen=True):
    """A question about a server's models, before the first request. ``model``: null: about all of them."""

    instance: str
    model: str | None
    reason: str
    status: int | None
    message: str


class Moment(msgspec.Struct, frozen=True):
    """About once a second: what has been so far, of ``requests`` in all."""

    event: Literal["progress"]
    seconds: float
    requests: int
    sent: int
    succeeded: int
    failed: int
    not_sent: int
    unfinished: int


class Report(msgspec.Struct, frozen=True):
    """What came of it. ``rate``: requests a second that were asked for; ``requests``: how many that makes.

    ``interrupted``: it ended before its time. ``left_out``: in words, what was not asked, and why.
    """

    event: Literal["report"]
    interrupted: bool
    seconds: float
    rate: float
    requests: int
    sent: int
    succeeded: int
    failed: int
    not_sent: int
    unfinished: int
    since_due: Percentiles | None
    since_sent: Percentiles | None
    targets: tuple[Counts, ...]
    unanswered: tuple[Unanswered, ...]
    left_out: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether every request was sent and answered, and every question before them."""
        return not (self.failed or self.not_sent or self.unfinished or self.unanswered)


def moment(smoke: Smoke) -> Moment:
    """What has been so far."""
    tallies = smoke.tallies
    return Moment(
        event="progress",
        seconds=round(smoke.seconds, 3),
        requests=smoke.schedule.count,
        sent=sum(one.sent for one in tallies),
        succeeded=sum(one.succeeded for one in tallies),
        failed=sum(one.failed for one in tallies),
        not_sent=sum(one.not_sent for one in tallies),
        unfinished=sum(one.under_way for one in tallies),
    )


def report(smoke: Smoke, found: Survey, *, interrupted: bool) -> Report:
    """Everything, by now."""
    now, tallies = moment(smoke), smoke.tallies
    return Report(
        event="report",
        interrupted=interrupted,
        seconds=now.seconds,
        rate=smoke.schedule.rate,
        requests=now.requests,
        sent=now.sent,
        succeeded=now.succeeded,
        failed=now.failed,
        not_sent=now.not_sent,
        unfinished=now.unfinished,
        since_due=_percentiles(Latencies.together(one.since_due for one in tallies)),
        since_sent=_percentiles(Latencies.together(one.since_sent for one in tallies)),
        targets=tuple(map(_counts, tallies)),
        unanswered=tuple(
            Unanswered(
                one.instance, str(one.model) if one.model else None, one.reason.value, one.status, _told(one.message)
            )
            for one in found.troubles
        ),
        left_out=found.left_out,
    )


def _counts(tally: Tally) -> Counts:
    return Counts(
        instance=tally.target.instance,
        model=str(tally.target.model),
        ways=tuple(way.value for way in tally.target.ways),
        sent=tally.sent,
        succeeded=tally.succeeded,
        failed=tally.failed,
        not_sent=tally.not_sent,
        unfinished=tally.under_way,
        since_due=_percentiles(tally.since_due),
        since_sent=_percentiles(tally.since_sent),
        failures=tuple(
            Failed(kind.reason.value, kind.status, number, _told(tally.examples[kind]))
            for kind, number in tally.failures.most_common()
        ),
    )


def _percentiles(latencies: Latencies) -> Percentiles | None:
    found: Found | None = latencies.percentiles()
    if found is None:
        return None
    return Percentiles(*(round(seconds, 6) for seconds in (found.p50, found.p90, found.p99, found.max)))


def _told(message: str) -> str:
    return printable(message, limit=_TEXT_LIMIT)


def page(now: Report) -> Page:
    """``now`` in words."""
    sheets = (_requests(now), _latencies(now), _failures(now))
    return Page(_head(now), tuple(sheet for sheet in sheets if sheet.rows))


def line(now: Moment) -> str:
    """``now`` in one line, without its end."""
    parts = [f"{now.sent} of {now.requests} requests sent", f"{now.succeeded} good"]
    parts += [f"{now.failed} failed"] if now.failed else []
    parts += [f"{now.not_sent} not sent"] if now.not_sent else []
    return f"{now.seconds:.0f} s: {', '.join(parts)}, {now.unfinished} under way"


def verdict(now: Report) -> str:
    """What is wrong, in one line; for one that is not good."""
    parts = [f"{now.failed} of {now.sent} requests failed"] if now.failed else []
    parts += [f"{now.not_sent} of {now.requests} could not be sent"] if now.not_sent else []
    parts += [f"{len(now.unanswered)} questions about models had no answer"] if now.unanswered else []
    return ", ".join(parts)


def _head(now: Report) -> tuple[Row, ...]:
    rows = [
        Row(("requests", f"{now.sent} of {now.requests} sent, {now.rate:g} a second, in {now.seconds:.1f} s")),
        Row(("good", str(now.succeeded))),
        Row(("failed", str(now.failed)), Tone.BAD if now.failed else Tone.CALM),
        Row(("not sent", str(now.not_sent)), Tone.BAD if now.not_sent else Tone.CALM),
    ]
    rows += [Row(("under way", str(now.unfinished)), Tone.MOVING)] if now.unfinished else []
    rows += [Row(("unanswered", printable(one.message)), Tone.BAD) for one in now.unanswered]
    return (*rows, *(Row(("left out", printable(text))) for text in now.left_out))


def _requests(now: Report) -> Sheet:
    rows = [
        Row(
            (
                printable(one.instance),
                printable(one.model),
                *map(str, (one.sent, one.succeeded, one.failed, one.not_sent)),
            ),
            Tone.BAD if one.failed or one.not_sent else Tone.CALM,
        )
        for one in now.targets
    ]
    return Sheet(("SERVER", "MODEL", "SENT", "GOOD", "FAILED", "NOT SENT"), tuple(rows))


def _latencies(now: Report) -> Sheet:
    each = [(one.instance, one.model, one.since_due, one.since_sent) for one in now.targets]
    whole = [("all", "", now.since_due, now.since_sent)] if len(each) > 1 else []
    rows = [
        Row((printable(instance), printable(model), what, *map(span, (found.p50, found.p90, found.p99, found.max))))
        for instance, model, since_due, since_sent in (*each, *whole)
        for what, found in (("due", since_due), ("sent", since_sent))
        if found is not None
    ]
    return Sheet(("SERVER", "MODEL", "LATENCY SINCE", "P50", "P90", "P99", "MAX"), tuple(rows))


def _failures(now: Report) -> Sheet:
    rows = [
        Row(
            (
                printable(one.instance),
                printable(one.model),
                str(kind.count),
                kind.reason,
                "-" if kind.status is None else str(kind.status),
                kind.message,
            ),
            Tone.BAD,
        )
        for one in now.targets
        for kind in one.failures
    ]
    return Sheet(("SERVER", "MODEL", "FAILURES", "REASON", "STATUS", "THE FIRST ONE"), tuple(rows))


def span(seconds: float) -> str:
    """``0.4 ms``, ``12 ms``, ``1.25 s``."""
    if seconds >= _SECOND:
        return f"{seconds:.2f} s"
    thousandths = seconds * 1000
    return f"{thousandths:.0f} ms" if thousandths >= 10 else f"{thousandths:.1f} ms"  # noqa: PLR2004 - two digits
