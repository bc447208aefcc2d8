"""What a store stands on, what lies beside its models, and what is known of it: each thing made so, and told of."""

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from syncd.jobs.doctor_kind import Severity
from syncd.jobs.rules import Rules
from syncd.jobs.surroundings import Surroundings
from syncd.oci.name import Reference
from syncd.store.ground import Ability, look
from syncd.store.holds import Hold
from syncd.store.layout import journal_file, partial_file, temporary_file
from syncd.store.root import Store
from tests.crash.strace import attached, needs_strace
from tests.doctor.world import DAY, Patient, visit
from tests.pull.world import as_root
from tests.support import commands
from tests.support.oracle import snapshot


def environment(store: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(store.parent), "LANG": "C.UTF-8"}


def syncd(store: Path, *arguments: str, inject: str = "") -> subprocess.CompletedProcess[str]:
    """A command as a process. ``inject``: what becomes of its system calls, in strace's words."""
    with ExitStack() as tracing:

        def trace(pid: int) -> None:
            options = ("-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}")
            tracing.enter_context(attached(pid, store.parent / "trace", *options))

        return commands.completed(
            *arguments,
            *("--store", str(store)),
            environ=environment(store),
            prepare=trace if inject else None,
        )


async def test_a_store_as_a_pull_leaves_it_has_nothing_worse_than_a_note(patient: Patient) -> None:
    before = snapshot(patient.path)

    seen = await visit(patient.path)

    assert seen.ids() == ["never-scrubbed", "no-servers"]
    assert snapshot(patient.path) == before
    assert not list((patient.path / ".syncd/staging").iterdir())


# The ground


def test_a_local_file_system_can_do_all_that_publishing_needs(patient: Patient) -> None:
    ground = look(patient.path)

    assert ground is not None
    assert (ground.tried, ground.lacking, ground.elsewhere, ground.network) == (True, (), (), False)
    assert set(ground.owners.values()) == {os.geteuid()}
    assert ground.free > 0


@pytest.mark.parametrize(
    ("call", "ability", "kind"),
    [
        ("linkat:error=EPERM", "link", "file-system-lacks"),
        ("/^rename(at2?)?$:error=EIO", "rename over a file", "file-system-lacks"),
        ("fsync:error=EIO", "write and fsync files", "file-system-lacks"),
        ("fallocate:error=EOPNOTSUPP", "reserve space", "no-preallocation"),
    ],
)
def test_what_a_file_system_cannot_do_is_tried_and_told(patient: Patient, call: str, ability: str, kind: str) -> None:
    needs_strace()

    done = syncd(patient.path, "doctor", "--offline", "--json", inject=call)

    found = [line for line in done.stdout.splitlines() if f'"id":"{kind}"' in line]
    assert found, done.stdout + done.stderr
    assert kind == "no-preallocation" or any(ability in line for line in found)


def test_locks_that_do_not_exclude_are_found_though_the_store_cannot_be_opened(patient: Patient) -> None:
    """As on Lustre without '-o flock': everybody gets every lock."""
    needs_strace()

    done = syncd(patient.path, "doctor", inject="flock:retval=0")

    assert done.returncode == 6, done.stderr
    assert "[locks-do-not-exclude]" in done.stdout
    assert "one lock was granted to two holders at once" in done.stdout
    assert "nothing in it was looked at" in done.stderr


@as_root
@pytest.mark.parametrize("part", ["blobs", "manifests", ".syncd/quarantine"])
def test_a_part_on_another_mount_is_found_though_the_store_cannot_be_opened(
    patient: Patient, tmp_path: Path, part: str
) -> None:
    """In a mount namespace of its own, so that nothing is left of it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    inside = ("unshare", "-m", "sh", "-ec", script, "sh", str(elsewhere), str(patient.path / part))

    doctor = ("doctor", "--offline", "--store", str(patient.path))
    done = commands.interpreted(*doctor, environ=environment(patient.path), before=inside)

    assert done.returncode == 6, done.stderr
    assert f"{patient.path}/{part}: it lies on another mount than .syncd/staging" in done.stdout
    assert "[other-mount]" in done.stdout


@as_root
def test_a_store_whose_folders_have_two_owners_is_told_of(patient: Patient) -> None:
    os.chown(patient.path / "blobs", 1234, 1234)

    ground = look(patient.path)
    done = syncd(patient.path, "doctor", "--offline")

    assert ground is not None
    assert ground.owners["blobs"] == 1234
    assert done.returncode == 6, done.stderr
    assert "[shared-store]" in done.stdout


async def test_a_store_that_others_cannot_enter_is_told_of_and_left(patient: Patient) -> None:
    patient.path.chmod(0o700)

    seen = await visit(patient.path, fix=True)

    assert seen.of("closed-store").what == "its mode is 0700"
    assert patient.path.stat().st_mode & 0o777 == 0o700


def test_a_store_that_is_not_there_is_no_finding(tmp_path: Path) -> None:
    done = syncd(tmp_path / "nothing", "doctor")

    assert done.returncode == 3
    assert "no store at" in done.stderr
    assert look(tmp_path / "nothing") is None


def test_nothing_is_left_of_what_was_tried(patient: Patient) -> None:
    """Even where half of it fails."""
    staging = patient.path / ".syncd/staging"
    staging.chmod(0o700)
    for _ in range(3):
        ground = look(patient.path)
        assert ground is not None
        assert Ability.EXCLUDE not in dict(ground.lacking)

    assert not list(staging.iterdir())


# What lies in .syncd


async def test_little_space_is_told_with_figures(patient: Patient) -> None:
    seen = await visit(patient.path, rules=Rules(floor=1 << 60))

    found = seen.of("little-space")
    assert found.severity is Severity.WARNING
    assert "are free, and" in found.what
    assert patient.model.name in found.what


async def test_what_crashes_and_collections_left_is_noted_and_left_to_them(patient: Patient) -> None:
    own = patient.path / ".syncd"
    digest = (await _weights(patient)).digest
    (own / "staging" / partial_file(digest)).write_bytes(b"x" * 5000)
    (own / "staging" / journal_file(digest)).write_bytes(b"x")
    (own / "trash" / temporary_file("old")).write_bytes(b"x")
    (own / "quarantine" / "odd.0123456789abcdef").write_bytes(b"x")

    seen = await visit(patient.path, fix=True)

    assert {"interrupted-pulls", "trash", "quarantine"} <= set(seen.ids())
    assert not seen.bad
    assert not seen.planned
    assert "of 1 blobs" in seen.of("interrupted-pulls").what
    assert (own / "staging" / partial_file(digest)).exists()


async def test_leases_that_keep_nothing_are_noted(patient: Patient) -> None:
    name = Reference.parse(patient.model.name).name
    with Store.open(patient.path, create=False) as store:
        manifest = store.models.read(name)
        assert manifest
        with await store.locks.references(shared=True) as held:
            store.leases.take(name, manifest, held).abandon()
    (lease,) = (patient.path / ".syncd/leases").iterdir()
    os.utime(lease, (1, 1))

    seen = await visit(patient.path)

    assert seen.of("expired-leases").what == "1 of them"


async def test_a_hold_that_contradicts_the_settings_is_told_of(patient: Patient) -> None:
    name = Reference.parse(patient.model.name).name
    with Store.open(patient.path, create=False) as store:
        manifest = store.models.read(name)
        assert manifest
        store.holds.put(Hold(name, manifest, 1.0, "a rollback", "a test"))
    pinned = Reference.parse(f"{patient.model.name}@sha256:{'0' * 64}")

    seen = await visit(patient.path, rules=Rules(floor=0, wanted=(pinned,)))
    agreeing = await visit(patient.path, rules=Rules(floor=0, wanted=(Reference(name, manifest.digest),)))

    assert seen.of("pin-conflict").subject == patient.model.name
    assert str(manifest.digest) in seen.of("pin-conflict").what
    assert "pin-conflict" not in agreeing.ids()


async def test_a_scrub_that_is_overdue_is_told_of_by_the_clock(patient: Patient) -> None:
    around = Surroundings(scrub_every=7 * DAY)
    now = time.time()

    fresh = await visit(patient.path, around=around, clock=lambda: now)
    late = await visit(patient.path, around=around, clock=lambda: now + 15 * DAY)

    assert "scrub-overdue" not in fresh.ids()
    assert late.of("scrub-overdue").what == "[scrub] every is 7 days, and in 15 days none has ended"


async def _weights(patient: Patient):  # noqa: ANN202 - a Descriptor
    with Store.open(patient.path, create=False) as store:
        manifest = store.models.read(Reference.parse(patient.model.name).name)
        assert manifest
        return manifest.weights[0]
