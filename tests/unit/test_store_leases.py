"""Leases: live while held, for a week after a crash, never visible unlocked."""

import signal
import time
from pathlib import Path

import pytest

from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.leases import LEASE_SECONDS, Lease
from syncd.store.root import Store
from tests.unit.store_world import NAME, age, manifest_of, python

MANIFEST = manifest_of(b"weights", b"config")

_TAKE = """
import sys
from pathlib import Path
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store
store = Store.open(Path(sys.argv[1]), create=False)
with store.locks.try_references(shared=True) as held:
    lease = store.leases.take(ModelName.parse("mistral:7b"), Manifest.parse(sys.argv[2].encode()), held)
print("taken", flush=True)
sys.stdin.read()
"""


def take(store: Store, name: ModelName = NAME, manifest: Manifest = MANIFEST) -> Lease:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with held:
        return store.leases.take(name, manifest, held)


def files(store: Store) -> list[Path]:
    return list((store.path / ".syncd" / "leases").iterdir())


def test_a_lease_is_live_until_it_is_released(store: Store) -> None:
    with take(store):
        (state,) = store.leases.all(time.time())
        assert state.live
        assert state.keeps
        assert (state.name, state.manifest) == (NAME, MANIFEST)

    assert store.leases.all(time.time()) == []


def test_looking_at_a_dead_lease_does_not_make_it_live(store: Store) -> None:
    take(store).abandon()

    (first,) = store.leases.all(time.time())
    (second,) = store.leases.all(time.time())

    assert not first.live
    assert not second.live


def test_the_lease_of_a_failed_pull_stays(store: Store) -> None:
    with pytest.raises(RuntimeError), take(store):
        raise RuntimeError

    (state,) = store.leases.all(time.time())
    assert not state.live
    assert state.keeps


def test_a_killed_holders_lease_keeps_its_blobs_for_a_week(store: Store) -> None:
    with python(_TAKE, store.path, MANIFEST.raw.decode()) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        assert store.leases.all(time.time())[0].live
        assert store.leases.of_name(ModelName.parse("MISTRAL:7b")) is not None
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)

    (soon,) = store.leases.all(time.time() + LEASE_SECONDS - 60)
    (later,) = store.leases.all(time.time() + LEASE_SECONDS + 60)
    assert (soon.live, soon.keeps, later.keeps) == (False, True, False)
    assert store.leases.of_name(NAME) is None


def test_a_passing_lease_keeps_its_blobs_while_its_holder_lives_and_no_moment_longer(store: Store) -> None:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with held:
        lease = store.leases.take(NAME, MANIFEST, held, passing=True)
    (living,) = store.leases.all(time.time())
    shown = store.leases.of_name(NAME)
    lease.abandon()
    (dead,) = store.leases.all(time.time())

    assert (living.live, living.keeps) == (True, True)
    assert (dead.live, dead.keeps) == (False, False)
    assert shown is None  # it is no pull
    assert not store.leases.has_dead(NAME)
    assert store.leases.drop_expired(time.time()) == 1


def test_a_passing_lease_has_the_content_of_any_other_for_whoever_does_not_know_it(store: Store) -> None:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with take(store), held, store.leases.take(NAME, MANIFEST, held, passing=True):
        one, other = files(store)
        assert one.read_bytes() == other.read_bytes()


def test_a_holder_that_touches_its_lease_starts_the_week_anew(store: Store) -> None:
    lease = take(store)
    age(files(store)[0], LEASE_SECONDS)

    lease.touch()
    lease.abandon()

    assert store.leases.all(time.time())[0].age < 60


def test_dropping_the_dead_spares_the_living_and_other_names(store: Store) -> None:
    take(store).abandon()
    take(store, ModelName.parse("other")).abandon()

    with take(store):
        store.leases.drop_dead(NAME)
        assert sorted((str(state.name), state.live) for state in store.leases.all(time.time())) == [
            ("mistral:7b", True),
            ("other:latest", False),
        ]


def test_the_newest_live_lease_of_a_name_is_the_one_shown(store: Store) -> None:
    newer = manifest_of(b"other weights", b"config")
    with take(store):
        age(files(store)[0], 60)
        with take(store, manifest=newer):
            shown = store.leases.of_name(NAME)

    assert shown is not None
    assert shown.manifest == newer


def test_what_a_power_cut_left_of_a_lease_is_ignored_and_dropped_after_a_week(store: Store) -> None:
    torn = store.path / ".syncd" / "leases" / "torn"
    torn.write_bytes(bytes(200))

    assert store.leases.all(time.time()) == []
    assert store.leases.drop_expired(time.time()) == 0
    assert store.leases.drop_expired(time.time() + LEASE_SECONDS + 60) == 1
    assert not torn.exists()


def test_a_live_lease_never_expires(store: Store) -> None:
    with take(store):
        assert store.leases.drop_expired(time.time() + 10 * LEASE_SECONDS) == 0
        assert len(files(store)) == 1


def test_a_lease_needs_the_references_lock(store: Store) -> None:
    held = store.locks.try_references(shared=True)
    assert held is not None
    held.release()

    with pytest.raises(ValueError, match="references lock"):
        store.leases.take(NAME, MANIFEST, held)
    assert not list((store.path / ".syncd" / "staging").iterdir())
