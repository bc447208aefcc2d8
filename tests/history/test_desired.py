"""What is done for a model that is held, that is not to be here, or that is to become an older version: pure."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from syncd.daemon.desired import (
    LONGEST_BACKOFF,
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
    decide,
)
from syncd.jobs.policy import PolicyError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
NAME = ModelName.parse("mistral:7b")
NOW = Moment(1000.0, 1.7e9, 43200.0)
HELD = Wish(Reference(NAME, OLD), 3600.0, held="pinned by a rollback")
THERE = Seen(digest=OLD, expected=OLD, size=5)
CHECKED = Standing(upstream=NEW, base=OLD, checked=1.7e9, due=2000.0)


@given(due=st.sampled_from([0.0, 999.0, 1001.0, 9e9]), retry=st.sampled_from([0.0, 5000.0]))
def test_of_what_is_held_nothing_is_applied_whatever_the_tag_holds(due: float, retry: float) -> None:
    action = decide(HELD, THERE, replace(CHECKED, due=due, retry_at=retry), NOW, pulled=False)

    assert isinstance(action, Wait | Check)


def test_what_is_held_is_called_pinned_and_its_tag_is_looked_at_when_that_is_due() -> None:
    assert decide(HELD, THERE, CHECKED, NOW, pulled=False) == Wait(2000.0, State.PINNED, "pinned by a rollback", 2000.0)
    assert decide(HELD, THERE, replace(CHECKED, due=1000.0), NOW, pulled=False) == Check()


def test_an_older_version_that_is_wanted_comes_by_a_pull_so_that_servers_hear_of_it() -> None:
    newer = Seen(digest=NEW, expected=OLD, restorable=True, noted=False, older=True)

    assert decide(HELD, newer, CHECKED, NOW, pulled=False) == Pull()


def test_what_somebody_took_away_or_broke_under_a_pin_is_put_back_from_the_disk() -> None:
    gone = Seen(expected=OLD, restorable=True, noted=False, older=True)

    assert decide(HELD, gone, CHECKED, NOW, pulled=False) == Restore()
    assert decide(HELD, replace(gone, digest=NEW, broken="a blob is gone"), CHECKED, NOW, pulled=False) == Restore()


@given(seen=st.sampled_from([THERE, Seen(), Seen(digest=NEW, expected=OLD, restorable=True)]), due=st.floats(0, 9e9))
def test_for_what_is_not_to_be_here_nothing_is_asked_and_nothing_is_done(seen: Seen, due: float) -> None:
    barred = Wish(Reference(NAME), 3600.0, barred="refused by policy.deny_names")

    action = decide(barred, seen, Standing(due=due), NOW, pulled=False)

    assert isinstance(action, Wait)
    assert (action.state, action.reason) == (State.FAILING, "refused by policy.deny_names")
    assert decide(barred, None, Standing(due=due), NOW, pulled=False) == Look()


def test_what_a_size_limit_refuses_is_not_asked_for_again_within_the_hour() -> None:
    after = Standing().failed(PolicyError("too large", "policy.max_size", None), NOW, 0.5)

    assert after.retry_at == NOW.now + LONGEST_BACKOFF
