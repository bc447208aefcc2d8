"""A smoke test's plan and figures, without servers: whom it asks when, what it counts, what it says of it."""

import asyncio
import json
import math
from collections import Counter
from fractions import Fraction

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncd.cli import smoke_page, status_page
from syncd.instances.ollama import ProbeError, Reason, Shown, Tagged
from syncd.jobs.latency import Latencies
from syncd.jobs.smoke import Schedule, Smoke, Target, Way, choice
from syncd.jobs.survey import Seen, Survey, Trouble, survey, ways_of
from syncd.oci.name import ModelName

MISTRAL, LLAMA, NOMIC = map(ModelName.parse, ("mistral:7b", "llama3.2:3b", "nomic-embed-text:v1.5"))
TEXT, EMBEDDINGS = Shown(("completion", "tools"), hosted=False), Shown(("embedding",), hosted=False)
HOSTILE = "\x1b[2J\u202eevil\n"

names = st.sampled_from(("gpu-1", "gpu-2", "gpu-3"))
seconds = st.floats(min_value=0, max_value=100_000)


def target(instance: str = "gpu-1", model: ModelName = MISTRAL, *ways: Way) -> Target:
    return Target(instance, model, ways or (Way.CHAT,))


# When, and whom


@given(st.integers(1, 10_000), st.integers(1, 100), st.integers(1, 100_000))
def test_a_rate_makes_as_many_requests_as_its_time_has_room_for(rate: int, parts: int, tenths: int) -> None:
    asked, time = Fraction(rate, parts), Fraction(tenths, 10)

    count = Schedule(float(asked), float(time)).count

    assert count == max(1, math.ceil(asked * time))


@given(st.floats(0.01, 10_000), st.floats(0.1, 10_000))
def test_the_requests_are_due_evenly_and_within_the_time(rate: float, time: float) -> None:
    schedule = Schedule(rate, time)

    assert schedule.due(0) == 0
    assert schedule.due(schedule.count - 1) < time or schedule.count == 1
    assert schedule.due(7) - schedule.due(6) == pytest.approx(1 / rate)


@given(st.lists(st.tuples(names, st.sampled_from((MISTRAL, LLAMA, NOMIC))), min_size=1, unique=True), st.data())
def test_every_target_is_asked_as_often_as_the_others_and_in_all_its_ways(
    pairs: list[tuple[str, ModelName]], data: st.DataObject
) -> None:
    targets = [
        Target(*pair, tuple(data.draw(st.lists(st.sampled_from(Way), min_size=1, unique=True)))) for pair in pairs
    ]

    asked = Counter(choice(targets, number) for number in range(6 * len(targets)))

    for one in targets:
        assert {asked[(one, way)] for way in one.ways} == {6 // len(one.ways)}


# Percentiles


@given(st.lists(seconds, min_size=1))
@example([86_215.0] * 99 + [87_940.0])  # the last of a day, beside what is beyond it
def test_a_percentile_is_never_below_the_true_one_and_at_most_two_percent_above(took: list[float]) -> None:
    latencies = Latencies()
    for one in took:
        latencies.add(one)

    found = latencies.percentiles()

    assert found is not None
    assert found.max == max(took)
    for share, shown in ((50, found.p50), (90, found.p90), (99, found.p99)):
        true = sorted(took)[math.ceil(Fraction(share, 100) * len(took)) - 1]
        assert true * (1 - 1e-9) <= shown <= max(1e-4, true * 1.02 * (1 + 1e-9)) or true > 86_400


@given(st.lists(seconds), st.lists(seconds))
def test_two_runs_together_are_as_one(first: list[float], second: list[float]) -> None:
    parts = [Latencies(), Latencies()]
    whole = Latencies()
    for part, took in zip(parts, (first, second), strict=True):
        for one in took:
            part.add(one)
            whole.add(one)

    assert Latencies.together(parts).percentiles() == whole.percentiles()


def test_there_are_no_percentiles_of_nothing() -> None:
    assert Latencies().percentiles() is None


def test_the_memory_for_latencies_is_bounded() -> None:
    latencies = Latencies()
    for number in range(50_000):
        latencies.add(1e-6 * 1.001**number)  # from a microsecond to longer than anything lasts

    assert latencies.buckets.total() == 50_000
    assert len(latencies.buckets) <= 1100


# Running


class World:
    """Servers of which each request takes as long as the test says, and ends as it says; time moves with the loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sent: list[tuple[float, str, Way]] = []
        self.errors: dict[int, ProbeError] = {}

    async def ask(self, asked: Target, way: Way) -> None:
        number = len(self.sent)
        self.sent.append((asyncio.get_running_loop().time(), asked.instance, way))
        await asyncio.sleep(self.seconds)
        if number in self.errors:
            raise self.errors[number]

    def smoke(self, *targets: Target, rate: float, seconds: float, concurrency: int = 8, turn: float = 60.0) -> Smoke:
        clock = asyncio.get_running_loop().time
        return Smoke(targets, Schedule(rate, seconds), concurrency=concurrency, ask=self.ask, clock=clock, turn=turn)


async def test_a_slow_server_does_not_lower_the_rate() -> None:
    world = World()
    world.seconds = 0.3
    run = world.smoke(target(), rate=100, seconds=0.5, concurrency=100)
    begun = asyncio.get_running_loop().time()

    await run.run()

    late = [at - begun - number / 100 for number, (at, _, _) in enumerate(world.sent)]
    assert len(world.sent) == 50
    assert min(late) >= -0.002
    assert max(late) < 10  # a closed loop would need 15 s


async def test_what_gets_no_turn_is_counted_as_not_sent() -> None:
    world = World()
    world.seconds = 60.0
    run = world.smoke(target(), rate=200, seconds=0.1, concurrency=3, turn=0.05)

    working = asyncio.get_running_loop().create_task(run.run())
    while run.tallies[0].not_sent < 17:
        await asyncio.sleep(0.005)
    working.cancel()
    await asyncio.wait((working,))

    tally = run.tallies[0]
    assert (tally.sent, tally.not_sent, tally.under_way) == (3, 17, 3)
    assert working.cancelled()


async def test_a_turn_that_comes_late_shows_in_the_latency_since_due() -> None:
    world = World()
    world.seconds = 0.1
    run = world.smoke(target(), rate=1000, seconds=0.003, concurrency=1, turn=60.0)

    await run.run()

    tally = run.tallies[0]
    assert (tally.sent, tally.not_sent) == (3, 0)
    assert tally.since_due.longest >= 0.29
    assert tally.since_due.longest > tally.since_sent.longest


async def test_a_server_that_hangs_starves_no_other() -> None:
    async def ask(asked: Target, _way: Way) -> None:
        while asked.instance == "gpu-1" and run.tallies[0].not_sent < 19:
            await asyncio.sleep(0.01)

    targets, clock = [target("gpu-1"), target("gpu-2")], asyncio.get_running_loop().time
    run = Smoke(targets, Schedule(200, 0.2), concurrency=1, ask=ask, clock=clock, turn=0.5)

    await run.run()

    first, second = run.tallies
    assert (first.sent, first.not_sent) == (1, 19)
    assert (second.succeeded, second.not_sent) == (20, 0)


async def test_failures_are_counted_by_kind_and_never_tried_again() -> None:
    world = World()
    for number in (1, 4, 5):
        world.errors[number] = ProbeError(Reason.NOT_FOUND, f"gone {number}", status=404)
    world.errors[7] = ProbeError(Reason.STATUS, "broken", status=500)
    world.errors[8] = ProbeError(Reason.REFUSED, "refused")
    run = world.smoke(target(), rate=1000, seconds=0.02)

    await run.run()

    tally = run.tallies[0]
    assert (tally.sent, tally.succeeded, tally.failed, tally.under_way) == (20, 15, 5, 0)
    assert {(kind.reason, kind.status): count for kind, count in tally.failures.items()} == {
        (Reason.NOT_FOUND, 404): 3,
        (Reason.STATUS, 500): 1,
        (Reason.REFUSED, None): 1,
    }
    assert sorted(tally.examples.values()) == ["broken", "gone 1", "refused"]
    assert tally.since_due.buckets.total() == 15


async def test_a_timeout_counts_among_the_latencies() -> None:
    world = World()
    world.seconds = 0.05
    world.errors[0] = ProbeError(Reason.TIMEOUT, "no answer")
    run = world.smoke(target(), rate=10, seconds=0.1)

    await run.run()

    assert run.tallies[0].since_sent.longest >= 0.05


async def test_latency_since_due_holds_what_the_smoke_test_itself_was_late() -> None:
    times = iter((0.0, 0.0, 5.0, 6.0, 6.0))  # begun, before the first, sent, answered, ended
    run = Smoke([target()], Schedule(1, 1), concurrency=1, ask=World().ask, clock=lambda: next(times))

    await run.run()

    tally = run.tallies[0]
    assert (tally.since_due.longest, tally.since_sent.longest) == (6.0, 1.0)
    assert run.seconds == 6.0


# Whom there is to ask


def seen(instance: str, listed: dict[ModelName, Shown | None]) -> Seen:
    return Seen(
        instance,
        {name.folded: Tagged(str(name), "0" * 64) for name in listed},
        {name.folded: shown for name, shown in listed.items() if shown is not None},
    )


def test_models_are_asked_in_the_ways_that_they_can_be() -> None:
    assert ways_of(TEXT) == (Way.CHAT, Way.GENERATE)
    assert ways_of(EMBEDDINGS) == (Way.EMBED,)
    assert ways_of(Shown(("completion", "embedding"), hosted=False)) == (Way.CHAT, Way.GENERATE, Way.EMBED)
    assert ways_of(Shown((), hosted=False)) == ways_of(None) == (Way.CHAT, Way.GENERATE)


def test_each_server_is_asked_for_what_it_lists_and_neighbours_are_on_different_servers() -> None:
    found = survey([seen("gpu-1", {MISTRAL: TEXT, NOMIC: EMBEDDINGS}), seen("gpu-2", {MISTRAL: TEXT})], ())

    assert [(one.instance, one.model, one.ways[0]) for one in found.targets] == [
        ("gpu-1", MISTRAL, Way.CHAT),
        ("gpu-2", MISTRAL, Way.CHAT),
        ("gpu-1", NOMIC, Way.EMBED),
    ]


def test_a_server_that_does_not_list_is_asked_for_what_the_others_list() -> None:
    silent = Seen("gpu-2", None, {}, (Trouble("gpu-2", None, Reason.REFUSED, None, "refused"),))

    found = survey([seen("gpu-1", {NOMIC: EMBEDDINGS}), silent], ())

    assert Target("gpu-2", NOMIC, (Way.EMBED,)) in found.targets
    assert found.troubles == silent.troubles


def test_a_model_that_is_named_is_asked_of_every_server_listed_there_or_not() -> None:
    found = survey([seen("gpu-1", {MISTRAL: TEXT, LLAMA: TEXT}), seen("gpu-2", {LLAMA: TEXT})], (MISTRAL,))

    assert [(one.instance, one.model) for one in found.targets] == [("gpu-1", MISTRAL), ("gpu-2", MISTRAL)]


@pytest.mark.parametrize("wanted", [(), (MISTRAL,)])
def test_stubs_of_hosted_models_are_never_asked(wanted: tuple[ModelName, ...]) -> None:
    stub = Seen("gpu-1", {MISTRAL.folded: Tagged("mistral:7b", "0" * 64, hosted=True)})
    shown = Seen("gpu-2", {MISTRAL.folded: Tagged("mistral:7b", "0" * 64)}, {MISTRAL.folded: Shown((), hosted=True)})
    silent = Seen("gpu-3", None)

    found = survey([stub, shown, silent], wanted)

    assert found.targets == ()
    assert len(found.left_out) == 3


def test_a_model_that_makes_neither_text_nor_embeddings_is_left_out_by_name() -> None:
    found = survey([seen("gpu-1", {MISTRAL: Shown(("image",), hosted=False), LLAMA: TEXT})], ())

    assert [one.model for one in found.targets] == [LLAMA]
    assert found.left_out == ("gpu-1: mistral:7b makes neither text nor embeddings, and is not asked",)


# What it says


async def ended() -> tuple[Smoke, Survey]:
    world = World()
    for number in range(4):
        world.errors[number] = ProbeError(Reason.NOT_FOUND, f"gone {HOSTILE}", status=404)
    run = world.smoke(target("gpu-1"), target("gpu-2", NOMIC, Way.EMBED), rate=1000, seconds=0.02)
    await run.run()
    trouble = Trouble("gpu-2", NOMIC, Reason.STATUS, 500, f"no {HOSTILE}")
    return run, Survey(tuple(one.target for one in run.tallies), (trouble,), ("gpu-3: left alone",))


async def test_the_report_adds_up_and_reads_as_json() -> None:
    run, found = await ended()

    report = json.loads(msgspec.json.encode(smoke_page.report(run, found, interrupted=False)))

    assert (report["sent"], report["succeeded"], report["failed"]) == (20, 16, 4)
    for key in ("sent", "succeeded", "failed", "not_sent", "unfinished"):
        assert report[key] == sum(one[key] for one in report["targets"])
    assert report["targets"][0]["failures"][0]["count"] == 2
    assert report["since_due"]["max"] >= report["since_due"]["p50"]
    assert report["unanswered"][0]["status"] == 500


async def test_the_page_shows_counts_latencies_and_failures_and_nothing_that_harms_a_terminal() -> None:
    run, found = await ended()

    text = status_page.text(smoke_page.page(smoke_page.report(run, found, interrupted=False)))

    assert "\x1b" not in text
    assert "\u202e" not in text
    for words in ("not_found", "404", "P99", "sent", "due", "nomic-embed-text:v1.5", "left alone"):
        assert words in text


async def test_a_report_is_good_only_if_all_was_sent_and_answered() -> None:
    run, found = await ended()
    report = smoke_page.report(run, found, interrupted=False)
    good = msgspec.structs.replace(report, failed=0, unanswered=())

    assert not report.is_good
    assert good.is_good
    assert not msgspec.structs.replace(good, not_sent=1).is_good
    assert not msgspec.structs.replace(good, unfinished=1).is_good
    assert smoke_page.verdict(report).startswith("4 of 20 requests failed")


@pytest.mark.parametrize(
    ("took", "text"), [(0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (1.0, "1.00 s"), (61.5, "61.50 s")]
)
def test_a_latency_is_shown_in_a_unit_that_fits(took: float, text: str) -> None:
    assert smoke_page.span(took) == text
