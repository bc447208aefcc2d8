"""What the daemon remembers between its lives, on a real disk."""

from pathlib import Path

import pytest

from syncd.daemon.desired import Moment, Standing
from syncd.daemon.memory import Memory, ModelMemory, recall, remembered
from syncd.errors import SyncdError
from syncd.jobs.board import JobView
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store

NAME = ModelName.parse("mistral:7b")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
NOW = Moment(1000.0, 1.7e9, 0.0)


def life(store: Store) -> Memory:
    """The next life of the daemon."""
    return Memory(store.state, clock=lambda: 1.7e9)


def job(id_: str, reference: str = "mistral:7b") -> JobView:
    return JobView(id=id_, reference=Reference.parse(reference), asked_by="an operator", started=1.7e9)


def put(store: Store, name: str, content: bytes) -> None:
    store.state.write(name, content)


def test_what_is_known_of_a_model_outlives_the_process(store: Store) -> None:
    standing = Standing(upstream=NEW, base=OLD, announced=NEW, checked=1.6e9, due=1600.0).failed(
        SyncdError("why"), NOW, 0.5
    )
    memory = life(store)
    memory.put(NAME, remembered(standing, OLD, NOW))
    memory.save(memory.snapshot())

    found = life(store).of(NAME)

    assert found.published == str(OLD)
    assert recall(found, NOW, 3600.0) == standing
    assert not memory.changed


def test_times_are_kept_by_the_wall_clock() -> None:
    memory = remembered(Standing(checked=1.7e9, due=1600.0), None, NOW)

    later = recall(memory, Moment(5.0, 1.7e9 + 100.0, 0.0), 3600.0)

    assert later.due == 5.0 + 500.0


@pytest.mark.parametrize("epoch", [0.0, 1.6e9, 1.8e9, 4e9])
def test_no_jump_of_the_clock_makes_a_wait_longer_than_usual(epoch: float) -> None:
    memory = ModelMemory(due=1.75e9, retry_at=1.75e9, checked=1.7e9, failures=1)

    standing = recall(memory, Moment(7.0, epoch, 0.0), 3600.0)

    assert 7.0 <= standing.due <= 7.0 + 1.1 * 3600
    assert 7.0 <= standing.retry_at <= 7.0 + 3600
    assert standing.checked is not None
    assert standing.checked <= epoch


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b'{"mistral:7b": 5}', b"{", b'{"a":{"failures":"x"}}'])
def test_a_file_that_cannot_be_read_is_set_aside(store: Store, content: bytes) -> None:
    put(store, "models.json", content)

    memory = life(store)

    assert memory.names() == []
    assert store.state.read("unreadable-models.json") == content
    memory.put(NAME, ModelMemory(published=str(OLD)))
    memory.save(memory.snapshot())
    assert life(store).names() == [NAME]


def test_a_memory_of_things_that_are_no_names_or_digests_is_harmless(store: Store) -> None:
    put(store, "models.json", b'{"../x": {"published": "sha256:zz"}, "mistral:7b": {"upstream": "x", "due": 1e308}}')

    memory = life(store)

    assert memory.names() == [NAME]
    standing = recall(memory.of(NAME), NOW, 3600.0)
    assert standing.upstream is None
    assert standing.due <= NOW.now + 1.1 * 3600


def test_a_link_where_the_memory_should_be_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (store.path / ".syncd" / "state" / "models.json").symlink_to(tmp_path / "elsewhere")

    assert life(store).names() == []
    assert (tmp_path / "elsewhere").read_bytes() == b"{}"


def test_a_job_that_ended_leaves_nothing(store: Store) -> None:
    jobs = life(store).jobs
    jobs.begun(job("a"))
    jobs.ended(job("a"))

    assert store.state.names() == []
    assert life(store).jobs.left_behind() == []


def test_a_job_that_a_stop_ended_is_left_without_a_death(store: Store) -> None:
    jobs = life(store).jobs
    jobs.begun(job("a"))
    jobs.parked(job("a"))

    (left,) = life(store).jobs.left_behind()

    assert (left.deaths, left.asked_by) == (0, "an operator")


def test_every_death_is_counted_until_the_job_ends(store: Store) -> None:
    for number in range(3):
        jobs = life(store).jobs
        assert [left.deaths for left in jobs.left_behind()] == ([number] if number else [])
        jobs.begun(job(f"life-{number}"))
        assert jobs.left_behind() == []

    jobs = life(store).jobs
    (left,) = jobs.left_behind()
    assert (left.deaths, str(left.reference), left.asked_by) == (3, "mistral:7b", "an operator")
    jobs.begun(job("last"))
    jobs.ended(job("last"))
    assert life(store).jobs.left_behind() == []


def test_a_life_in_which_the_job_was_not_begun_is_no_death(store: Store) -> None:
    life(store).jobs.begun(job("a"))
    for _ in range(5):
        (left,) = life(store).jobs.left_behind()
        assert left.deaths == 1


def test_a_death_between_two_notes_counts_once(store: Store) -> None:
    life(store).jobs.begun(job("a"))
    life(store)
    note = store.state.read("job-a.json")
    assert note is not None
    put(store, "job-b.json", note.replace(b'"running":false', b'"running":true'))

    (left,) = life(store).jobs.left_behind()

    assert left.deaths == 2
    assert len(store.state.names()) == 1


def test_another_pin_of_the_name_clears_what_was_left(store: Store) -> None:
    life(store).jobs.begun(job("a"))
    jobs = life(store).jobs
    pinned = job("b", f"mistral:7b@{OLD}")

    jobs.begun(pinned)
    jobs.ended(pinned)

    assert life(store).jobs.left_behind() == []


def test_a_note_that_cannot_be_read_is_set_aside(store: Store) -> None:
    put(store, "job-x.json", b"{")
    put(store, "job-y.json", b'{"reference":"../..","asked_by":"","deaths":1,"running":true,"at":1}')

    assert life(store).jobs.left_behind() == []
    assert set(store.state.names()) == {"unreadable-job-x.json", "unreadable-job-y.json"}
