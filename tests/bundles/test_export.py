"""An export: the same models give the same bytes, and what is damaged gives none."""

import asyncio
import io
import os
import resource
import shutil
import signal
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest

from syncd.cli.bundle_file import to_file
from syncd.errors import BusyError, IntegrityError, NotFoundError, SyncdError, UsageError
from syncd.jobs.collect import collect
from syncd.jobs.export import ExportedModel, leased
from syncd.jobs.remove import remove
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store import archive
from syncd.store.locks import try_lock
from syncd.store.root import Store
from tests.adopt.world import blob_file
from tests.bundles.world import export_to, exported, filled, member, names, started, syncd
from tests.pull.world import as_root
from tests.support.models import Model, synthetic_model


def test_the_same_models_give_the_same_bytes_whatever_the_order_and_the_store(
    store_path: Path, tmp_path: Path, mistral: Model, llava: Model
) -> None:
    other = filled(tmp_path / "elsewhere", llava, mistral)

    assert exported(store_path, mistral, llava, mistral) == exported(other, llava, mistral)


def test_a_bundle_is_an_image_layout_that_any_tar_can_read(store_path: Path, mistral: Model, llava: Model) -> None:
    with tarfile.open(fileobj=io.BytesIO(exported(store_path, mistral, llava))) as bundle:
        found = {one.name: one for one in bundle.getmembers()}
        manifest = bundle.extractfile(member(mistral.digest))
        assert manifest is not None
        assert manifest.read() == mistral.manifest

    assert list(found)[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
    files = {name for name, one in found.items() if one.isreg()}
    digests = {mistral.digest, llava.digest, *mistral.blobs, *llava.blobs}
    assert files == {"oci-layout", "index.json", *map(member, digests)}
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in found.values()} == {(0, 0, 0, "", "")}


def test_a_member_of_many_gigabytes_has_a_header_that_tar_understands() -> None:
    size = 40 << 30

    info = tarfile.TarFile.open(fileobj=io.BytesIO(archive.header("blobs/sha256/" + "a" * 64, size))).next()

    assert info is not None
    assert info.size == size


def test_what_is_not_there_is_said_so_and_nothing_is_written(store_path: Path, tmp_path: Path) -> None:
    ended = syncd(store_path, "export", "mistral:7b", "absent:1b", "-o", str(tmp_path / "m.tar"))

    assert ended.returncode == 3
    assert b"absent:1b is not in" in ended.stderr
    assert not list(tmp_path.glob("m.tar*"))


def test_a_damaged_blob_ends_it_and_the_older_file_stays(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    file = blob_file(store_path, mistral.weights)
    found = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as weights:
        weights.seek(1000)
        weights.write(b"rot")
    file.chmod(0o444)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    target = tmp_path / "m.tar"
    target.write_bytes(b"last week's")

    ended = syncd(store_path, "export", "mistral:7b", "-o", str(target))

    assert ended.returncode == 6
    assert b"damaged" in ended.stderr
    assert b"syncd verify --repair mistral:7b" in ended.stderr
    assert target.read_bytes() == b"last week's"
    assert [path.name for path in tmp_path.glob("m.tar*")] == ["m.tar"]


def test_a_damaged_blob_in_a_pipe_leaves_no_end(store_path: Path, mistral: Model) -> None:
    file = blob_file(store_path, mistral.weights)
    file.chmod(0o644)
    file.write_bytes(b"?" * file.stat().st_size)

    ended = syncd(store_path, "export", "mistral:7b", "-o", "-")

    assert ended.returncode == 6
    assert not ended.stdout.endswith(archive.END)


def test_a_missing_blob_is_found_before_anything_is_written(store_path: Path, mistral: Model) -> None:
    for folder in (store_path / "blobs", store_path / ".syncd" / "keep"):
        (folder / blob_file(store_path, mistral.weights).name).unlink()
    content = io.BytesIO()

    with Store.open(store_path, create=False) as store, pytest.raises(IntegrityError, match="is missing"):
        asyncio.run(export_to(store, names(mistral), content.write))

    assert not content.getvalue()
    assert not list((store_path / ".syncd" / "leases").iterdir())


def test_a_collection_leaves_the_blobs_of_an_export_that_runs(store_path: Path, mistral: Model) -> None:
    begun, go_on, content = threading.Event(), threading.Event(), io.BytesIO()

    def write(part: bytes | memoryview) -> None:
        content.write(part)
        begun.set()
        assert go_on.wait(60)

    async def both(store: Store) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(export_to(store, names(mistral), write), name="export")
            try:
                await asyncio.to_thread(begun.wait, 60)
                await remove(store, ModelName.parse("mistral:7b"), now=time.time())
                taken = await collect(store, now=time.time() + 30 * 24 * 3600)
            finally:
                go_on.set()
        assert not taken.blobs

    with Store.open(store_path, create=False) as store:
        asyncio.run(both(store))
        assert content.getvalue().endswith(archive.END)
        assert not list((store_path / ".syncd" / "leases").iterdir())
        freed = asyncio.run(collect(store, now=time.time() + 30 * 24 * 3600))
    assert mistral.weights in {str(one.digest) for one in freed.blobs}


def test_a_killed_export_keeps_no_blob_from_a_collection(store_path: Path, mistral: Model, llava: Model) -> None:
    with started(store_path, "export", mistral.name, llava.name, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stdout.buffer.read(512)  # 64 KiB fit into the pipe: it waits for us
        assert list((store_path / ".syncd" / "leases").iterdir())
        process.kill()
        assert process.wait() == -signal.SIGKILL

    with Store.open(store_path, create=False) as store:
        first, second = sorted(ModelName.parse(one.name) for one in (mistral, llava))
        asyncio.run(remove(store, second, now=time.time()))  # the joint lease is under the first one's name
        freed = asyncio.run(collect(store, now=time.time() + 24 * 3600))
        kept = store.models.read(first)

    theirs = next(one for one in (mistral, llava) if ModelName.parse(one.name) == second)
    assert theirs.weights in {str(one.digest) for one in freed.blobs}
    assert kept is not None
    assert not list((store_path / ".syncd" / "leases").iterdir())


def test_many_models_are_exported_with_few_open_files(tmp_path: Path) -> None:
    models = [synthetic_model(f"m{number}:1", 1000 + number) for number in range(30)]
    path = filled(tmp_path / "many", *models)
    content, leases = io.BytesIO(), set()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def write(part: bytes | memoryview) -> None:
        leases.update((path / ".syncd" / "leases").iterdir())
        content.write(part)

    with Store.open(path, create=False) as store:
        highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
        try:
            ended = asyncio.run(export_to(store, names(*models), write))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

        assert len(ended.models) == len(models)
        assert len(leases) == 1  # and yet it keeps every blob: see below
        assert not list((path / ".syncd" / "leases").iterdir())


def test_one_lease_for_many_models_keeps_every_blob(mistral: Model, llava: Model) -> None:
    found = [ExportedModel(ModelName.parse(one.name), Manifest.parse(one.manifest)) for one in (mistral, llava)]

    ((name, joint),) = leased(found)

    assert name == ModelName.parse(mistral.name)
    assert {blob.digest for blob in joint.blobs} == {blob.digest for one in found for blob in one.manifest.blobs}
    assert leased(found[:1]) == [(found[0].name, found[0].manifest)]


def test_as_many_leases_are_taken_as_fit_a_manifest_each() -> None:
    found = [
        ExportedModel(
            ModelName.parse(f"m{number}:1"), Manifest.parse(synthetic_model(f"m{number}:1", 10 + number).manifest)
        )
        for number in range(1100)
    ]

    parts = leased(found)

    kept = {blob.digest for _, manifest in parts for blob in Manifest.parse(manifest.raw).blobs}
    assert kept == {blob.digest for one in found for blob in one.manifest.blobs}
    assert 1 < len(parts) < 5


def test_an_export_that_nobody_reads_can_be_interrupted(store_path: Path) -> None:
    with started(store_path, "export", "mistral:7b", "-o", "-") as process:
        assert process.stdout is not None
        assert process.stdout.buffer.read(512)  # 64 KiB fit into the pipe: it waits for us
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM

    assert not list((store_path / ".syncd" / "leases").iterdir())


@as_root
def test_a_pipe_of_another_user_is_written_to_and_heeds_a_signal(mistral: Model) -> None:
    """As in 'sudo -u OWNER syncd export … -o - | …': the pipe is the shell's, and cannot be opened anew."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        store = filled(Path(made) / "models", mistral)
        whole = exported(store, mistral)
        for path in (store, *store.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")
        export = ("export", "mistral:7b", "-o", "-")
        with started(store, *export, user="nobody") as read:
            written, _ = read.communicate_bytes()
        with started(store, *export, user="nobody") as unread:
            assert unread.stdout is not None
            assert unread.stdout.buffer.read(512)
            unread.send_signal(signal.SIGTERM)
            assert unread.wait(30) == 128 + signal.SIGTERM

    assert read.returncode == 0
    assert written == whole


def test_a_device_or_a_terminal_is_no_file_to_replace(store_path: Path) -> None:
    ended = syncd(store_path, "export", "mistral:7b", "-o", "/dev/null")

    assert ended.returncode == 2
    assert b"no regular file" in ended.stderr
    assert Path("/dev/null").is_char_device()


def test_json_and_the_archive_do_not_share_stdout(store_path: Path) -> None:
    ended = syncd(store_path, "export", "mistral:7b", "-o", "-", "--json")

    assert ended.returncode == 2
    assert not ended.stdout.startswith(b"oci-layout")


def test_a_name_that_nobody_has_is_not_found(store_path: Path) -> None:
    with Store.open(store_path, create=False) as store, pytest.raises(NotFoundError):
        asyncio.run(export_to(store, [ModelName.parse("none:1b")], io.BytesIO().write))


def test_a_folder_that_is_not_there_is_said_so(store_path: Path, tmp_path: Path) -> None:
    ended = syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "none" / "m.tar"))

    assert ended.returncode == 3
    assert b"is no folder" in ended.stderr


def test_two_exports_into_one_file_do_not_mix(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    target = tmp_path / "m.tar"
    with to_file(target, store_path), pytest.raises(BusyError, match="another export"), to_file(target, store_path):
        pass
    assert not list(tmp_path.glob("m.tar*"))

    assert syncd(store_path, "export", "mistral:7b", "-o", str(target)).returncode == 0
    assert target.read_bytes() == exported(store_path, mistral)


@pytest.mark.parametrize("content", [b"half of a film", b"oci-layout is what this letter is about"])
def test_a_file_that_only_happens_to_be_called_so_is_left_alone(
    store_path: Path, tmp_path: Path, content: bytes
) -> None:
    film = tmp_path / "m.tar.partial"
    film.write_bytes(content)

    ended = syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "m.tar"))

    assert ended.returncode == 2
    assert b"no unfinished export" in ended.stderr
    assert film.read_bytes() == content


def test_another_name_of_a_file_is_left_alone(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    kept = tmp_path / "kept.tar"
    kept.write_bytes(exported(store_path, mistral))
    (tmp_path / "m.tar.partial").hardlink_to(kept)

    assert syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "m.tar")).returncode == 2

    assert kept.read_bytes() == exported(store_path, mistral)


def test_what_a_killed_export_left_is_taken_over(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    whole = exported(store_path, mistral)
    for left in (0, 5, 512, len(whole) // 2):
        (tmp_path / "m.tar.partial").write_bytes(whole[:left])
        assert syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "m.tar")).returncode == 0
        assert (tmp_path / "m.tar").read_bytes() == whole
        assert not (tmp_path / "m.tar.partial").exists()


def test_an_export_that_ends_just_when_another_begins_keeps_its_bytes(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has opened the file before it got its name, and locks it after."""
    target, partial = tmp_path / "m.tar", tmp_path / "m.tar.partial"
    partial.write_bytes(b"")

    def late(fd: int, *, shared: bool) -> bool:
        if partial.exists() and not target.exists():
            partial.write_bytes(b"whole by now")
            partial.rename(target)
        return try_lock(fd, shared=shared)

    monkeypatch.setattr("syncd.cli.bundle_file.try_lock", late)
    with to_file(target, store_path):
        assert target.read_bytes() == b"whole by now"

    assert target.read_bytes() == b"whole by now"


def test_a_link_is_followed_and_stays(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "m.tar").symlink_to("disk/link")
    (tmp_path / "disk/link").symlink_to(tmp_path / "disk/real.tar")

    assert syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "m.tar")).returncode == 0

    assert (tmp_path / "disk/real.tar").read_bytes() == exported(store_path, mistral)
    assert (tmp_path / "m.tar").is_symlink()


def test_links_that_lead_in_a_circle_are_refused(store_path: Path, tmp_path: Path) -> None:
    (tmp_path / "m.tar").symlink_to("m.tar")

    assert syncd(store_path, "export", "mistral:7b", "-o", str(tmp_path / "m.tar")).returncode == 2


@as_root
def test_a_link_that_another_user_put_into_a_folder_of_all_is_not_followed(store_path: Path, tmp_path: Path) -> None:
    everybodys, secret = tmp_path / "tmp", tmp_path / "shadow"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    secret.write_text("root's")
    (everybodys / "m.tar").symlink_to(secret)
    os.lchown(everybodys / "m.tar", 1234, 1234)

    ended = syncd(store_path, "export", "mistral:7b", "-o", str(everybodys / "m.tar"))

    assert ended.returncode == 4
    assert secret.read_text() == "root's"


@as_root
def test_a_file_of_another_user_hands_on_no_rights(store_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.tar"
    target.write_bytes(b"")
    target.chmod(0o4666)
    os.chown(target, 1234, 1234)

    assert syncd(store_path, "export", "mistral:7b", "-o", str(target)).returncode == 0

    assert target.stat().st_mode & 0o7022 == 0


def children() -> set[int]:
    """Of this thread; other tests of this process may have left some."""
    return set(map(int, Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()))


@as_root
def test_a_killed_child_is_told_of(store_path: Path, tmp_path: Path) -> None:
    os.chown(store_path / ".syncd", 1234, 1234)  # so that an export must become that user
    before = children()
    with to_file(tmp_path / "m.tar", store_path) as out:
        (child,) = children() - before
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SyncdError, match="has died"):
            out.finish()

    assert not (tmp_path / "m.tar").exists()


def test_more_manifests_than_an_import_would_take_are_not_written(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, mistral: Model
) -> None:
    monkeypatch.setattr("syncd.oci.image_layout.MAX_MANIFESTS_BYTES", len(mistral.manifest) - 1)
    content = io.BytesIO()

    with Store.open(store_path, create=False) as store, pytest.raises(UsageError, match="more models than a bundle"):
        asyncio.run(export_to(store, names(mistral), content.write))

    assert not content.getvalue()


def test_a_disk_that_fills_up_ends_it(store_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = started(store_path, "export", "mistral:7b", "-o", "-", streams=(None, full.fileno(), None))
    _, errors = process.communicate()

    assert process.returncode == 7
    assert "No space left" in errors
