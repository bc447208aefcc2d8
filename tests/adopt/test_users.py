"""Sources that only root may read, for a store of another user; users who may not read them at all."""

import os
import pwd
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from syncd.errors import ExitCode
from tests.adopt.world import blob_file, lay, photograph, tag_file
from tests.pull.world import command
from tests.support import commands
from tests.support.models import MIB, Model, build_model, synthetic_model
from tests.support.oracle import assert_store_whole

NOBODY = pwd.getpwnam("nobody")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
pytestmark = needs_root


@pytest.fixture
def owned(open_path: Path) -> Path:
    """A store that belongs to nobody, by name."""
    made = command("init", "--owner", "nobody", "--store", str(open_path / "store"))
    assert made.returncode == 0, made.stderr
    return open_path / "store"


@pytest.fixture
def closed(open_path: Path, mistral: Model, llava: Model) -> Path:
    """A source that only root may look into."""
    source = lay(open_path / "source", mistral, llava)
    source.chmod(0o700)
    for path in (source / "blobs").iterdir():
        path.chmod(0o600)
    return source


def assert_owned_by_nobody(store: Path) -> None:
    for path in (store, *store.rglob("*")):
        assert path.lstat().st_uid == NOBODY.pw_uid, path


@pytest.mark.parametrize("arguments", [(), ("--delete-source",)], ids=["copied", "moved"])
def test_root_reads_the_source_and_the_stores_owner_gets_what_is_taken(
    owned: Path, closed: Path, mistral: Model, llava: Model, arguments: tuple[str, ...]
) -> None:
    before = photograph(closed)

    ended = command("adopt", *arguments, "--store", str(owned), str(closed))

    assert ended.returncode == 0, ended.stderr
    assert set(assert_store_whole(owned).values()) == {mistral.digest, llava.digest}
    assert_owned_by_nobody(owned)
    if arguments:
        assert not list((closed / "blobs").iterdir())
        assert blob_file(owned, mistral.weights).stat().st_nlink == 2
    else:
        assert photograph(closed) == before


def test_a_corrupt_file_is_given_back_to_whom_it_belonged(owned: Path, closed: Path, mistral: Model) -> None:
    weights = blob_file(closed, mistral.weights)
    weights.write_bytes(bytes(mistral.weights_size))
    before = photograph(closed)[str(weights)]

    ended = command("adopt", "--delete-source", "--store", str(owned), str(closed))

    assert ended.returncode == ExitCode.INTEGRITY
    assert photograph(closed)[str(weights)] == before


def test_a_secret_that_was_linked_into_a_source_keeps_its_owner_and_its_mode(
    owned: Path, closed: Path, open_path: Path, mistral: Model
) -> None:
    secret = open_path / "secret"
    secret.write_bytes(b"s" * mistral.weights_size)
    secret.chmod(0o600)
    blob_file(closed, mistral.weights).unlink()
    os.link(secret, blob_file(closed, mistral.weights))

    ended = command("adopt", "--delete-source", "--store", str(owned), str(closed))

    assert ended.returncode == ExitCode.INTEGRITY
    found = secret.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    assert not any(b"sssss" in path.read_bytes() for path in owned.rglob("*") if path.is_file())


def test_who_may_not_read_a_source_is_told_to_use_sudo(owned: Path, closed: Path) -> None:
    ended = command("adopt", "--store", str(owned), str(closed), user="nobody")

    assert ended.returncode == ExitCode.NOT_AUTHORISED
    assert "sudo" in ended.stderr


def test_a_blob_that_may_not_be_read_fails_its_model_alone(
    owned: Path, closed: Path, mistral: Model, llava: Model
) -> None:
    closed.chmod(0o755)
    for path in (closed / "blobs").iterdir():
        path.chmod(0o644)
    blob_file(closed, llava.weights).chmod(0o600)

    ended = command("adopt", "--store", str(owned), str(closed), user="nobody")

    assert ended.returncode == ExitCode.NOT_AUTHORISED
    assert set(assert_store_whole(owned).values()) == {mistral.digest}
    assert not list((owned / ".syncd/staging").glob("*.partial"))


def test_who_may_read_a_source_but_not_change_it_cannot_delete_it(owned: Path, closed: Path) -> None:
    closed.chmod(0o755)
    before = photograph(closed)

    ended = command("adopt", "--delete-source", "--store", str(owned), str(closed), user="nobody")

    assert ended.returncode == ExitCode.NOT_AUTHORISED
    assert "without --delete-source" in ended.stderr
    assert photograph(closed) == before


def test_a_dry_run_as_root_looks_into_another_users_store(owned: Path, closed: Path, mistral: Model) -> None:
    assert command("adopt", "--store", str(owned), str(closed)).returncode == 0
    tag_file(closed, "mistral:7b").write_bytes(build_model("mistral:7b", 64 * 1024, seed=3).manifest)

    ended = command("adopt", "--dry-run", "--store", str(owned), str(closed))

    assert ended.returncode == ExitCode.FAILED
    assert f"kept: the store has another version: {mistral.digest}" in ended.stdout
    assert "is in the store" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_adoption_ends_with_its_helper_and_goes_on_when_it_is_run_again(
    owned: Path, open_path: Path, number: signal.Signals
) -> None:
    model = synthetic_model(weights_bytes=192 * MIB)
    source = lay(open_path / "source", model)
    arguments = ["adopt", "--store", str(owned), str(source)]
    running = subprocess.Popen(
        [*commands.INTERPRETED, *arguments],
        env={"PATH": os.environ["PATH"]},
        cwd=commands.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    with running:
        deadline = time.monotonic() + 30
        while not list((owned / ".syncd/staging").glob("*.partial")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.005)
        os.killpg(running.pid, number) if number == signal.SIGINT else running.kill()
        assert running.stderr is not None
        told = running.stderr.read()  # to its end: whoever holds it is gone then
        running.wait(60)
    if number == signal.SIGINT:
        assert running.returncode == 128 + number
        assert b"run the same command to go on where it stopped" in told
        assert not list((owned / ".syncd/staging").glob("*.partial"))
    assert assert_store_whole(owned) == {}

    assert command(*arguments).returncode == 0

    assert set(assert_store_whole(owned).values()) == {model.digest}
