"""What to do for a model of the settings: the decision by itself, over everything that may come together."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.daemon.desired import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    LONGEST_RETRY_AFTER,
    LOOK_SECONDS,
    Action,
    Announce,
    Check,
    Look,
    Moment,
    Pull,
    Restore,
    Seen,
    Standing,
    State,
    Wait,
    Wish,
    backoff,
    decide,
    hold_seconds,
    interval,
    until_open,
)
from syncd.daemon.units import Window
from syncd.daemon.words import describe
from syncd.errors import RegistryUnavailableError, SyncdError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference

NAME = ModelName.parse("mistral:7b")
OLD, NEW, OTHER = (Digest.of(text) for text in (b"old", b"new", b"other"))
HOUR = 3600.0
NIGHT = Window(60, 300)
NOON, NIGHTTIME = 12 * HOUR, 2 * HOUR
WHOLE = Seen(digest=OLD, expected=OLD, size=5)
NOW = Moment(1000.0, 1.7e9, NOON)
FOLLOWED = Wish(Reference(NAME), 6 * HOUR)
PINNED = Wish(Reference(NAME, OLD), 6 * HOUR)
CHECKED = Standing(upstream=OLD, base=OLD, checked=1.7e9, due=5000.0)
OUTDATED = replace(CHECKED, upstream=NEW)


def step(wish: Wish = FOLLOWED, seen: Seen | None = WHOLE, standing: Standing = CHECKED, at: Moment = NOW) -> Action:
    return decide(wish, seen, standing, at, pulled=False)


def test_nothing_is_done_before_it_was_looked_at() -> None:
    assert step(seen=None) == Look()


def test_nothing_is_done_while_a_pull_runs() -> None:
    action = decide(FOLLOWED, Seen(), Standing(), NOW, pulled=True)

    assert isinstance(action, Wait)
    assert action.state is State.PULLING


def test_the_old_version_is_put_back_while_the_new_one_is_pulled() -> None:
    damage = Seen(expected=OLD, restorable=True)

    assert decide(FOLLOWED, damage, OUTDATED, NOW, pulled=True) == Restore()


def test_the_first_pull_is_made_at_once_whatever_the_window() -> None:
    wish = replace(FOLLOWED, window=NIGHT, apply="notify")

    assert step(wish, Seen(), Standing(due=9e9)) == Pull()


def test_a_current_model_waits_for_its_next_check() -> None:
    assert step() == Wait(5000.0, State.PUBLISHED, None, 5000.0)
    assert step(at=replace(NOW, now=5000.0)) == Check()


def test_a_pinned_model_is_never_checked() -> None:
    action = step(PINNED, standing=Standing(upstream=NEW, base=OLD), at=replace(NOW, now=1e9))

    assert isinstance(action, Wait)
    assert (action.state, action.next_try) == (State.PUBLISHED, None)


def test_a_pin_is_put_back_where_another_version_lies() -> None:
    there = Seen(digest=NEW, expected=OLD, restorable=True)

    assert step(PINNED, there) == Restore()
    assert step(PINNED, replace(there, restorable=False)) == Pull()


def test_an_update_is_pulled_at_once_without_a_window() -> None:
    assert step(standing=OUTDATED) == Pull()


def test_an_update_is_announced_once_and_then_waits_for_its_window() -> None:
    wish = replace(FOLLOWED, window=NIGHT)

    assert step(wish, standing=OUTDATED) == Announce(NEW)
    told = replace(OUTDATED, announced=NEW, due=9e9)
    waits = step(wish, standing=told)
    assert isinstance(waits, Wait)
    assert (waits.state, waits.until) == (State.PENDING, NOW.now + 13 * HOUR)
    assert step(wish, standing=told, at=replace(NOW, second=NIGHTTIME)) == Pull()


def test_an_update_that_is_only_announced_is_still_followed() -> None:
    wish = replace(FOLLOWED, apply="notify")
    told = replace(OUTDATED, announced=NEW)

    waits = step(wish, standing=told)
    assert isinstance(waits, Wait)
    assert waits.state is State.PENDING
    assert step(wish, standing=told, at=replace(NOW, now=5000.0)) == Check()
    assert step(wish, standing=replace(told, upstream=OTHER)) == Announce(OTHER)


def test_what_an_operator_published_since_the_last_check_is_no_update_behind() -> None:
    by_hand = Seen(digest=OTHER, expected=OTHER)

    action = step(replace(FOLLOWED, apply="notify"), by_hand, OUTDATED)

    assert isinstance(action, Wait)
    assert action.state is State.PUBLISHED


def test_what_somebody_else_brought_is_checked_and_then_taken_over() -> None:
    foreign = Seen(digest=OLD, expected=None)

    assert step(seen=foreign, standing=Standing()) == Check()
    assert step(seen=foreign) == Pull()
    assert step(replace(FOLLOWED, apply="notify"), foreign, OUTDATED) == Announce(NEW)


@pytest.mark.parametrize(
    "damage",
    [
        Seen(expected=OLD, restorable=True),
        Seen(digest=NEW, expected=OLD, restorable=True),
        Seen(digest=OLD, expected=OLD, broken="a blob is gone", restorable=True),
        Seen(digest=OLD, expected=OLD, noted=False, restorable=True),
    ],
)
def test_damage_is_mended_even_while_requests_fail(damage: Seen) -> None:
    failing = replace(CHECKED, failures=3, retry_at=9e9, held_until=9e9)

    assert step(seen=damage, standing=failing) == Restore()


def test_what_is_not_on_the_disk_any_more_is_pulled() -> None:
    damage = Seen(expected=OLD, restorable=True)

    assert step(seen=damage, standing=replace(CHECKED, gone=OLD)) == Pull()
    assert step(seen=damage, standing=replace(CHECKED, gone=OTHER)) == Restore()


def test_a_model_that_is_taken_away_again_and_again_is_put_back_more_and_more_slowly() -> None:
    standing, moment, waits = CHECKED, NOW, []
    for _ in range(12):
        standing = standing.restored(moment, moment)
        waits.append(standing.restore_at - moment.now)
        moment = replace(moment, now=max(standing.restore_at, moment.now + 0.5))

    assert waits[:2] == [0, 0]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0
    later = replace(moment, now=standing.restore_at + 61)
    assert standing.restored(later, later).restores == 1


@pytest.mark.parametrize("seconds", [0.5, 90.0])
def test_what_cannot_be_put_back_is_tried_more_and_more_slowly_however_long_a_try_takes(seconds: float) -> None:
    standing, moment, waits = CHECKED, NOW, []
    for _ in range(16):
        began, moment = moment, replace(moment, now=moment.now + seconds)
        standing = standing.not_restored("I/O error", began, moment)
        waits.append(standing.restore_at - moment.now)
        moment = replace(moment, now=standing.restore_at)

    assert waits == sorted(waits)
    assert waits[-5:] == [60.0] * 5


def test_a_held_job_waits_and_says_so() -> None:
    action = step(seen=Seen(), standing=replace(CHECKED, held_until=1010.0))

    assert action == Wait(1010.0, State.HELD, "the last daemon died under its pull", 1010.0)


def test_failures_are_counted_and_told_with_the_next_try() -> None:
    failed = CHECKED.failed(SyncdError("no route"), NOW, 0.5)

    action = step(seen=Seen(), standing=failed)

    assert (failed.failures, failed.reason) == (1, "no route")
    assert action == Wait(NOW.now + FIRST_BACKOFF, State.FAILING, "no route", NOW.now + FIRST_BACKOFF)


def test_a_registry_is_not_asked_before_it_wants_to_be() -> None:
    busy = RegistryUnavailableError("busy", retry_after=7200.0)
    absurd = RegistryUnavailableError("busy", retry_after=1e12)

    assert CHECKED.failed(busy, NOW, 0.5).retry_at == NOW.now + 7200
    assert CHECKED.failed(absurd, NOW, 0.5).retry_at == NOW.now + LONGEST_RETRY_AFTER


def test_success_ends_a_row_of_failures() -> None:
    failed = CHECKED.failed(SyncdError("no route"), NOW, 0.5)

    pulled = failed.pulled(NEW, 9000.0, NOW)

    assert (pulled.failures, pulled.reason, pulled.retry_at, pulled.due) == (0, None, 0.0, 9000.0)


@given(failures=st.integers(1, 10**6), random=st.floats(0, 1, exclude_max=True))
def test_the_wait_after_failures_is_bounded(failures: int, random: float) -> None:
    assert 0.9 * FIRST_BACKOFF <= backoff(failures, random) <= 1.1 * LONGEST_BACKOFF


@given(deaths=st.integers(1, 10**6))
def test_a_hold_is_bounded(deaths: int) -> None:
    assert 10.0 <= hold_seconds(deaths) <= hold_seconds(deaths + 1) <= LONGEST_BACKOFF


def test_a_hold_grows_sixfold() -> None:
    assert [hold_seconds(deaths) for deaths in (1, 2, 3, 4, 5)] == [10, 60, 360, 2160, 3600]


@given(every=st.floats(60, 30 * 86400), random=st.floats(0, 1, exclude_max=True))
def test_checks_are_spread_by_a_tenth(every: float, random: float) -> None:
    assert 0.9 * every <= interval(every, random) <= 1.1 * every


@given(
    start=st.integers(0, 1439),
    length=st.integers(1, 1439),
    second=st.floats(0, 86400, exclude_max=True),
)
def test_a_window_is_open_when_the_wait_for_it_is_over(start: int, length: int, second: float) -> None:
    window = Window(start, (start + length) % 1440)

    wait = until_open(window, second)

    assert 0 < wait <= 86400
    assert window.holds(int(round(second + wait, 3) // 60) % 1440)


# Everything that may come together

digests = st.sampled_from([None, OLD, NEW, OTHER])
times = st.sampled_from([0.0, 500.0, 999.9, 1000.0, 1000.1, 1500.0, 9e9])
seens = st.builds(
    Seen,
    digest=digests,
    expected=digests,
    broken=st.sampled_from([None, "broken"]),
    restorable=st.booleans(),
    noted=st.booleans(),
)
standings = st.builds(
    Standing,
    upstream=digests,
    base=digests,
    announced=digests,
    checked=st.sampled_from([None, 1.7e9]),
    due=times,
    failures=st.integers(0, 40),
    reason=st.sampled_from([None, "why"]),
    retry_at=times,
    held_until=times,
    restore_at=times,
    gone=digests,
)
wishes = st.builds(
    Wish,
    reference=st.builds(Reference, st.just(NAME), digests),
    every=st.just(6 * HOUR),
    window=st.sampled_from([None, NIGHT, Window(1380, 60)]),
    apply=st.sampled_from(["auto", "notify"]),
)
moments = st.builds(Moment, now=st.just(1000.0), epoch=st.just(1.7e9), second=st.floats(0, 86400, exclude_max=True))


@given(wish=wishes, seen=seens, standing=standings, moment=moments)
def test_an_intact_pin_is_left_in_peace(wish: Wish, seen: Seen, standing: Standing, moment: Moment) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    if wish.pin is not None:
        assert not isinstance(action, Check | Announce)
        if seen.intact(wish.pin):
            assert isinstance(action, Wait)


@given(wish=wishes, seen=seens, standing=standings, moment=moments)
def test_no_update_comes_outside_its_window_or_unasked(
    wish: Wish, seen: Seen, standing: Standing, moment: Moment
) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    closed = wish.window is not None and not wish.window.holds(moment.minute)
    if (wish.apply == "notify" or closed) and seen.intact(wish.pin) and isinstance(action, Pull):
        assert standing.upstream == seen.digest  # it only makes sure of what is there


@given(wish=wishes, seen=seens, standing=standings, moment=moments)
def test_there_is_always_a_next_time(wish: Wish, seen: Seen, standing: Standing, moment: Moment) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    if isinstance(action, Wait):
        assert action.until > moment.now
        later = replace(moment, now=max(standing.due, standing.retry_at, standing.held_until, standing.restore_at) + 1)
        if wish.pin is None or not seen.intact(wish.pin):
            assert not isinstance(decide(wish, seen, standing, later, pulled=False), Wait)


@given(wish=wishes, seen=seens, standing=standings, moment=moments)
def test_no_request_is_made_before_its_time(wish: Wish, seen: Seen, standing: Standing, moment: Moment) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    if isinstance(action, Check | Pull):
        assert moment.now >= max(standing.retry_at, standing.held_until)


@given(wish=wishes, seen=seens, standing=standings, moment=moments)
def test_announcing_ends(wish: Wish, seen: Seen, standing: Standing, moment: Moment) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    if isinstance(action, Announce):
        told = replace(standing, announced=action.digest)
        assert not isinstance(decide(wish, seen, told, moment, pulled=False), Announce)


@given(wish=wishes, seen=st.none() | seens, standing=standings, moment=moments)
def test_everything_can_be_said(wish: Wish, seen: Seen | None, standing: Standing, moment: Moment) -> None:
    action = decide(wish, seen, standing, moment, pulled=False)

    told = describe(wish, seen, standing, action, moment, None)

    assert told.state in set(State)
    assert 0 <= told.done <= told.size
    assert told.state != "published" or (seen is not None and seen.intact(wish.pin))
    if told.state in {"failing", "held", "pending"}:
        assert told.reason is not None or standing.reason is None


def test_quiet_models_are_looked_at_all_the_same() -> None:
    action = step(PINNED)

    assert isinstance(action, Wait)
    assert action.until == NOW.now + LOOK_SECONDS
