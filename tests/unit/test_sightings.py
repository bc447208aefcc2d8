"""What looks at containers mean."""

from syncd.daemon.sightings import LEAVE_AFTER, Seen, seen
from syncd.instances.containers import Container
from syncd.instances.model import Instance


def container(name: str = "ollama-1", *, identity: str = "", running: bool = True, second: int = 0) -> Container:
    return Container.of(
        {
            "Id": identity or f"{name}-id",
            "Name": f"/{name}",
            "State": {"Running": running, "StartedAt": f"2026-05-01T12:00:{second:02}Z"},
            "Config": {"Labels": {"syncd.instance": "true"}},
            "HostConfig": {"NetworkMode": "host"},
        }
    )


def look(before: Seen, *marked: Container, stopped: frozenset[str] = frozenset(), now: float = 0.0) -> Seen:
    return seen(before, marked, (), stopped=stopped, now=now)


def names(found: Seen) -> list[str]:
    return [one.name for one in found.instances]


def test_the_first_look_restarts_nobody() -> None:
    found = look(Seen(), container(second=5))

    assert names(found) == ["ollama-1"]
    assert found.restarted == ()


def test_a_later_start_is_a_restart_once() -> None:
    first = look(Seen(), container(second=5))

    second = look(first, container(second=9))
    third = look(second, container(second=9))

    assert second.restarted == ("ollama-1",)
    assert third.restarted == ()


def test_what_never_ran_is_no_instance() -> None:
    assert names(look(Seen(), container(running=False))) == []


def test_what_died_stays() -> None:
    first = look(Seen(), container())

    assert names(look(first, container(running=False), now=1000.0)) == ["ollama-1"]


def test_what_was_stopped_leaves_when_its_time_is_up() -> None:
    stopped = frozenset({"ollama-1-id"})
    first = look(Seen(), container())

    second = look(first, container(running=False), stopped=stopped, now=100.0)
    third = look(second, container(running=False), stopped=stopped, now=101.0)
    last = look(third, container(running=False), stopped=stopped, now=100.0 + LEAVE_AFTER)

    assert names(second) == names(third) == ["ollama-1"]
    assert third.next_leave == 100.0 + LEAVE_AFTER
    assert names(last) == []
    assert last.next_leave is None


def test_what_comes_back_in_time_was_restarted() -> None:
    first = look(Seen(), container())
    second = look(first, now=100.0)

    third = look(second, container(identity="made-anew", second=7), now=105.0)

    assert names(third) == ["ollama-1"]
    assert third.restarted == ("ollama-1",)
    assert third.next_leave is None


def test_a_new_name_takes_the_place_of_the_old_one_at_once() -> None:
    first = look(Seen(), container("old", identity="same"))

    second = look(first, container("new", identity="same"))

    assert names(second) == ["new"]


def test_a_configured_container_is_followed_even_while_it_is_away() -> None:
    instance = Instance(name="gpu", url="http://127.0.0.1:11434", container="ollama-1")
    first = seen(Seen(), (), [(instance, container())], stopped=frozenset(), now=0.0)
    away = seen(first, (), [(instance, None)], stopped=frozenset(), now=1.0)

    back = seen(away, (), [(instance, container(identity="made-anew"))], stopped=frozenset(), now=1000.0)

    assert away.faults == ("instance gpu: Docker has no container ollama-1",)
    assert back.restarted == ("gpu",)
    assert back.instances == ()
