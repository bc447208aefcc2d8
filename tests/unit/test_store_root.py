"""Opening a store: whose it is, what it was made by, and what it lies on."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.errors import ConfigurationError, ExitCode, NotAuthorisedError, NotFoundError, StoreError
from syncd.store import owner
from syncd.store.owner import Owner
from syncd.store.root import Store
from syncd.store.takeover import init
from tests.unit.store_world import NAME, blob_path, descriptor, manifest_path, publish, python

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, or mounts")

_AS_NOBODY = """
import sys
from pathlib import Path
from syncd.errors import SyncdError
from syncd.store.owner import Owner, become
from syncd.store.root import Store
import pwd
become(Owner.named("nobody"))
try:
    with Store.open(Path(sys.argv[1]), create=sys.argv[2] == "create") as store:
        from tests.unit.store_world import publish
        publish(store, b"weights", b"config")
        print("published")
except SyncdError as error:
    print(error.message, error.hint)
    sys.exit(error.exit_code)
"""


def modes(path: Path) -> dict[str, int]:
    return {str(one.relative_to(path)): one.lstat().st_mode & 0o7777 for one in path.rglob("*") if one.is_dir()}


def test_a_store_is_made_with_its_parents_and_the_modes_of_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "models"
    before = os.umask(0o077)
    try:
        Store.open(path, create=True).close()
    finally:
        os.umask(before)

    made = modes(path)
    assert made.pop("manifests") == made.pop("blobs") == path.stat().st_mode & 0o7777 == 0o755
    assert path.parent.stat().st_mode & 0o7777 == 0o755
    assert set(made.values()) == {0o700}
    assert (path / ".syncd" / "version").read_text() == "1\n"


def test_where_no_store_is_nothing_is_made_unless_asked_for(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NotFoundError, match="no store at") as caught:
            Store.open(path, create=False)
        assert "syncd init" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_an_ollama_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir(mode=0o775)
    (tmp_path / "blobs").chmod(0o775)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests").chmod(0o700)  # no container could read it
    (tmp_path / "blobs" / "sha256-x-partial").touch()

    Store.open(tmp_path, create=True).close()

    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o775
    assert (tmp_path / "manifests").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "blobs" / "sha256-x-partial").exists()


def test_a_store_that_was_killed_while_it_was_made_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / ".syncd").mkdir(mode=0o700)

    with pytest.raises(NotFoundError):
        Store.open(tmp_path, create=False)
    Store.open(tmp_path, create=True).close()
    Store.open(tmp_path, create=False).close()


def test_a_store_may_be_reached_through_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.path)

    with Store.open(tmp_path / "link", create=False) as same:
        assert same.path == store.path


@pytest.mark.parametrize("name", ["manifests", "blobs", ".syncd", ".syncd/staging"])
def test_a_link_inside_a_store_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    (store.path / name).rename(tmp_path / "moved")
    (store.path / name).symlink_to(tmp_path / "moved")

    with pytest.raises(StoreError, match="a symbolic link where a folder should be"):
        Store.open(store.path, create=True)


@pytest.mark.parametrize("text", ["2\n", "99"])
def test_a_newer_layout_is_refused(store: Store, text: str) -> None:
    (store.path / ".syncd" / "version").write_text(text)

    with pytest.raises(ConfigurationError, match=f"layout {text.strip()}"):
        Store.open(store.path, create=True)


def test_a_version_that_is_no_number_is_refused(store: Store) -> None:
    (store.path / ".syncd" / "version").write_text("one")

    with pytest.raises(ConfigurationError, match="no number"):
        Store.open(store.path, create=False)


def test_a_closed_store_holds_no_descriptors(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the folder lists itself while it is read

    store = Store.open(tmp_path, create=True)
    store.close()
    store.close()
    (tmp_path / ".syncd" / "version").write_text("9")
    with pytest.raises(ConfigurationError):
        Store.open(tmp_path, create=True)

    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


def test_free_space_is_what_the_file_system_says(store: Store) -> None:
    free = os.statvfs(store.path)

    assert abs(store.free_bytes() - free.f_bavail * free.f_frsize) < 1 << 30


@needs_root
def test_parts_on_another_mount_are_refused_even_of_the_same_file_system(tmp_path: Path) -> None:
    (tmp_path / "models" / "blobs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "elsewhere", tmp_path / "models" / "blobs"], check=True)
    try:
        with pytest.raises(StoreError, match="another mount") as caught:
            Store.open(tmp_path / "models", create=True)
    finally:
        subprocess.run(["umount", tmp_path / "models" / "blobs"], check=True)
    assert "one mount" in (caught.value.hint or "")


@needs_root
def test_a_read_only_file_system_is_said_to_be_one(tmp_path: Path) -> None:
    Store.open(tmp_path / "models", create=True).close()
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        with pytest.raises(StoreError) as caught:
            Store.open(tmp_path / "models", create=False)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert "read-only" in (caught.value.hint or "")


# Owners


def test_who_may_touch_a_store() -> None:
    ollama = Owner(998, 998, "ollama")
    path = Path("/srv/models")

    assert owner.decide(None, path=path, euid=1000) is None
    assert owner.decide(ollama, path=path, euid=998) is None
    assert owner.decide(ollama, path=path, euid=0) == ollama
    assert owner.decide(Owner(0, 0, "root"), path=path, euid=0) is None
    with pytest.raises(NotAuthorisedError, match="belongs to ollama") as caught:
        owner.decide(ollama, path=path, euid=1000)
    assert "sudo" in (caught.value.hint or "")


def test_the_owner_of_nothing_is_nobody(tmp_path: Path) -> None:
    assert owner.owner_of_store(tmp_path / "nothing") is None
    found = owner.owner_of_store(tmp_path)
    assert found is not None
    assert found.uid == os.geteuid()


def test_an_unknown_user_is_told_so() -> None:
    with pytest.raises(NotFoundError, match="no user 'nosuchuser'"):
        Owner.named("nosuchuser")


@needs_root
def test_the_owner_of_an_ollama_folder_is_who_ollama_runs_as(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    os.chown(tmp_path / "manifests", NOBODY.pw_uid, NOBODY.pw_gid)

    assert owner.owner_of_store(tmp_path) == Owner(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users can reach: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_root
def test_somebody_else_is_turned_away_with_exit_code_4(public_path: Path) -> None:
    store, ollama = public_path / "models", public_path / "ollama"
    Store.open(store, create=True).close()
    (ollama / "blobs").mkdir(parents=True)

    for path, how in ((store, "open"), (store, "create"), (ollama, "create")):
        process = python(_AS_NOBODY, path, how)
        out, err = process.communicate(timeout=60)
        assert process.returncode == ExitCode.NOT_AUTHORISED, err
        assert "belongs to root" in out
        assert "sudo" in out
    assert not (ollama / ".syncd").exists()


@needs_root
def test_root_does_not_touch_a_users_store_as_root(tmp_path: Path) -> None:
    path = tmp_path / "models"
    init(path, owner=Owner.named("nobody"))

    with pytest.raises(NotAuthorisedError, match="belongs to nobody"):
        Store.open(path, create=True)


@needs_root
def test_init_makes_a_store_for_another_user_who_can_use_it(public_path: Path) -> None:
    path = public_path / "models"

    init(path, owner=Owner.named("nobody"))

    process = python(_AS_NOBODY, path, "open")
    out, err = process.communicate(timeout=60)
    assert out == "published\n", err
    assert {one.lstat().st_uid for one in (path, *path.rglob("*"))} == {NOBODY.pw_uid}


@needs_root
def test_init_takes_a_store_over_and_mends_its_modes(store: Store) -> None:
    publish(store, b"weights", b"config")
    manifest_path(store).chmod(0o600)
    manifest_path(store).parent.chmod(0o700)
    blob_path(store, descriptor(b"weights")).chmod(0o640)

    init(store.path, owner=Owner.named("nobody"))

    everything = (store.path, *store.path.rglob("*"))
    assert {(one.lstat().st_uid, one.lstat().st_gid) for one in everything} == {(NOBODY.pw_uid, NOBODY.pw_gid)}
    assert manifest_path(store).stat().st_mode & 0o777 == 0o644
    assert manifest_path(store).parent.stat().st_mode & 0o777 == 0o755
    assert blob_path(store, descriptor(b"weights")).stat().st_mode & 0o777 == 0o444


@needs_root
@pytest.mark.parametrize("how", ["link", "hard link"])
def test_init_gives_away_nothing_that_lies_outside_of_the_store(store: Store, tmp_path: Path, how: str) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:…")
    planted = store.path / "blobs" / ("sha256-" + 64 * "0")
    if how == "link":
        planted.symlink_to(secret)
    else:
        os.link(secret, planted)

    with pytest.raises(StoreError, match=r"symbolic link|another name outside of the store"):
        init(store.path, owner=Owner.named("nobody"))

    assert secret.stat().st_uid == 0


def test_init_for_oneself_makes_a_store(tmp_path: Path) -> None:
    init(tmp_path / "models", owner=None)

    with Store.open(tmp_path / "models", create=False) as store:
        assert store.models.find(NAME) is None
