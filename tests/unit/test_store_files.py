"""Files and folders by descriptor: modes, links, FIFOs, short writes, full disks."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.errors import NoSpaceError, NotAuthorisedError, StoreError
from syncd.store.allocate import allocate
from syncd.store.descriptors import write_all
from syncd.store.files import Folder
from syncd.store.os_errors import NotAFileError
from tests.unit.store_world import python

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def hostile_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("hostile_umask")
def test_modes_are_what_was_asked_for_whatever_the_umask(folder: Folder, tmp_path: Path) -> None:
    folder.make_sub("shared", 0o755).close()
    folder.write_atomically("file", b"content", mode=0o644, staging=folder)

    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_link_where_a_folder_should_be_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")

    with pytest.raises(StoreError, match="link: a symbolic link where a folder should be"):
        folder.sub("link")
    with pytest.raises(StoreError, match="a symbolic link"):
        folder.make_sub("link", 0o755)


def test_a_link_where_a_file_should_be_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")

    with pytest.raises(NotAFileError, match="a symbolic link where a file should be"):
        folder.read_file("link", 1000)
    with pytest.raises(NotAFileError, match="a symbolic link where a file should be"):
        folder.create_file("link", 0)


@pytest.mark.timeout(10)
def test_a_fifo_is_refused_and_hangs_nobody(folder: Folder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(NotAFileError, match="fifo is no regular file"):
        folder.read_file("fifo", 10)
    with pytest.raises(NotAFileError, match="fifo is no regular file"):
        folder.create_file("fifo", 0)
    with pytest.raises(NotAFileError, match="fifo is no regular file"):
        folder.open_file("fifo", os.O_WRONLY)


def test_what_is_not_there_is_none(folder: Folder) -> None:
    assert folder.sub("nothing") is None
    assert folder.open_file("nothing") is None
    assert folder.read_file("nothing", 10) is None
    assert folder.stat("nothing") is None
    assert folder.rmdir("nothing") is False


def test_a_file_beyond_its_limit_is_refused(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))

    assert folder.read_file("file", 11) == bytes(11)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        folder.read_file("file", 10)


def test_a_link_replaces_another_files_name_and_leaves_nothing_beside_it(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "name").write_bytes(b"old")

    for _ in range(2):  # the second time, both are names of one file already
        folder.link("new", folder, "name", through=folder)

    assert (tmp_path / "name").samefile(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "new"]


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()

    with pytest.raises(StoreError, match="a folder where a file should be"):
        folder.write_atomically("name", b"x", mode=0o644, staging=folder)

    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_tree_is_removed_but_not_what_its_links_point_to(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "link").symlink_to(tmp_path / "kept")

    folder.remove_tree("tree")

    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "kept" / "file").exists()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=9), max_size=3000), st.integers(0, 50))
def test_all_parts_are_written_however_many_there_are(parts: list[bytes], offset: int) -> None:
    fd = os.memfd_create("parts")
    try:
        write_all(fd, parts, offset, Path("parts"))
        assert os.pread(fd, 1 << 20, 0) == (bytes(offset) + b"".join(parts) if any(parts) else b"")
    finally:
        os.close(fd)


@needs_root
def test_a_full_disk_is_found_out_before_the_first_byte_and_nothing_stays_taken(small_disk: Path) -> None:
    fd = os.open(small_disk / "file", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(NoSpaceError, match=f"{small_disk}/file: No space left"):
            allocate(fd, 8 * MIB, small_disk / "file")
    finally:
        os.close(fd)


def test_what_is_preallocated_is_reserved_and_has_its_size(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        allocated = allocate(fd, 3 * MIB + 1, tmp_path / "file")
        found = os.fstat(fd)
    finally:
        os.close(fd)

    assert found.st_size == 3 * MIB + 1
    assert not allocated or found.st_blocks * 512 >= found.st_size


@pytest.mark.skipif(shutil.which("strace") is None and not os.environ.get("CI"), reason="needs strace")
def test_a_file_system_without_fallocate_gets_a_sparse_file_and_no_zeros_are_written(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from syncd.store.allocate import allocate
path = Path(sys.argv[1])
fd = os.open(path, os.O_RDWR | os.O_CREAT)
print(allocate(fd, 1 << 30, path), os.fstat(fd).st_size, os.fstat(fd).st_blocks)
"""
    inject = (
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        "-f",
        "-e",
        "trace=fallocate",
        "-e",
        "inject=fallocate:error=EOPNOTSUPP",
    )
    process = python(code, tmp_path / "file", before=inject)

    out, err = process.communicate(timeout=60)

    assert out.split() == ["False", str(1 << 30), "0"], err


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_folder_of_somebody_else_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from syncd.errors import NotAuthorisedError
from syncd.store.files import Folder
folder = Folder.open(Path(sys.argv[1]))
os.setresuid(65534, 65534, 65534)
try:
    folder.make_sub("mine", 0o755)
except NotAuthorisedError as error:
    print(error.message, error.hint)
"""
    tmp_path.chmod(0o755)

    out, err = python(code, tmp_path).communicate(timeout=60)

    assert f"{tmp_path}/mine: Permission denied" in out, err
    assert "sudo" in out
    assert NotAuthorisedError.exit_code == 4


def test_two_who_list_a_folder_at_once_each_see_all_of_it(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"file{number}").touch()
    with Folder.open(tmp_path) as folder, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(folder.list()), range(200)))

    assert set(found) == {2000}
