"""What a scrub reads, and how: from the disk itself or honestly not, at a given rate, and past the page cache."""

import asyncio
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from syncd.jobs.damage import DamageKind
from syncd.jobs.scrub import ScrubWish
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store.blobs import BlobStatus
from syncd.store.direct import BLOCK_BYTES, DirectFile, DirectReader
from syncd.store.root import Store
from tests.crash.strace import attached, needs_strace
from tests.scrub.world import MIB, Heard, blob_file, put, scrubbed
from tests.support.models import build_model, synthetic_model
from tests.unit.store_world import python


def test_a_file_of_any_length_is_read_whole(tmp_path: Path) -> None:
    chance = random.Random(3)
    with DirectReader() as reader:
        for size in (0, 1, 511, 4096, 4097, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 777):
            content = chance.randbytes(size)
            path = tmp_path / "file"
            path.write_bytes(content)
            fd = os.open(path, os.O_RDONLY)
            try:
                read = b"".join(bytes(block.data) for block in reader.blocks(DirectFile(fd), 0, size))
            finally:
                os.close(fd)
            assert read == content


def test_a_file_system_without_direct_reads_is_read_through_the_cache_and_says_so(tmp_path: Path) -> None:
    """/proc knows no O_DIRECT: what holds for any file there holds for a file system."""
    del tmp_path
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        file = DirectFile(fd)
        buffer = memoryview(bytearray(BLOCK_BYTES))
        count = file.read(buffer, 0)
    finally:
        os.close(fd)

    assert not file.direct
    assert bytes(buffer[:count]).startswith(b"Name:")


async def test_a_scrub_of_a_disk_reads_all_of_it_past_the_cache(store: Store) -> None:
    model = synthetic_model(weights_bytes=2 * CHUNK_SIZE + 5)
    put(store, model)
    if not _knows_direct_reads(store.path):
        pytest.skip("NOT RUN: this file system knows no O_DIRECT")

    result = await scrubbed(store)

    assert result.direct
    assert result.size == model.size


async def test_the_page_cache_is_neither_filled_nor_emptied(store: Store) -> None:
    warm, cold = synthetic_model("warm:1", 64 * MIB, seed=1), synthetic_model("cold:1", 64 * MIB, seed=2)
    paths = []
    for model in (warm, cold):
        put(store, model)
        paths.append(blob_file(store, model.weights))
    if not _knows_direct_reads(store.path) or shutil.which("fincore") is None:
        pytest.skip("NOT RUN: no O_DIRECT here, or no fincore(1)")
    _evict(paths[1])
    paths[0].read_bytes()
    before = [_cached(path) for path in paths]

    await scrubbed(store)

    # Others on the machine may need the memory: of what was warm, some may go. What was cold must not come.
    assert _cached(paths[1]) <= before[1] + MIB
    assert _cached(paths[0]) >= before[0] // 2


async def test_the_rate_is_held(store: Store) -> None:
    model = synthetic_model(weights_bytes=64 * MIB)
    put(store, model)
    started = time.monotonic()

    await scrubbed(store, ScrubWish(None, 32.0 * MIB))

    # Two seconds, less what may be read at once at the beginning.
    assert time.monotonic() - started >= 1.5


async def test_a_cancelled_scrub_ends_at_once_and_holds_nothing(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=64 * MIB))
    heard = Heard()
    async with asyncio.timeout(20):
        task = asyncio.create_task(scrubbed(store, ScrubWish(None, 4.0 * MIB), heard=heard))
        while not any(one.done for one in heard.moments):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (await scrubbed(store)).damaged == 0  # the lock is free again


async def test_what_the_disk_cannot_read_is_found_and_the_rest_of_it_is_known_to_be_good(
    store: Store, tmp_path: Path
) -> None:
    needs_strace()
    model = synthetic_model(weights_bytes=3 * CHUNK_SIZE)
    put(store, model)
    code = """
import asyncio, json, sys
from pathlib import Path
from syncd.store.root import Store
from tests.scrub.world import Heard, scrubbed
heard = Heard()
with Store.open(Path(sys.argv[1]), create=False) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(scrubbed(store, heard=heard))
print(json.dumps([[one.kind.value, one.chunks, str(one.blob.digest)] for one in heard.damages]))
"""
    with python(code, store.path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        weights = str(blob_file(store, model.weights))
        # By map, the pass ends with the first bad block; then all of it is read, and the second chunk cannot be.
        inject = ("-P", weights, "-e", "trace=preadv,preadv2", "-e", "inject=preadv,preadv2:error=EIO:when=3+4")
        with attached(process.pid, tmp_path / "trace", *inject):
            process.stdin.write("\n")
            process.stdin.flush()
            found = process.stdout.readline()
        process.wait(20)

    assert found.startswith("[[")
    ((kind, chunks, digest),) = json.loads(found)
    assert (kind, digest) == (DamageKind.UNREADABLE.value, model.weights)
    assert 0 < len(chunks) < 3


async def test_a_read_that_fails_for_want_of_memory_says_nothing_of_the_blob(store: Store, tmp_path: Path) -> None:
    needs_strace()
    model = synthetic_model(weights_bytes=CHUNK_SIZE)
    put(store, model)
    code = """
import asyncio, sys
from pathlib import Path
from syncd.store.root import Store
from tests.scrub.world import Heard, scrubbed
with Store.open(Path(sys.argv[1]), create=False) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(scrubbed(store))
print("done", flush=True)
"""
    with python(code, store.path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        weights = str(blob_file(store, model.weights))
        inject = ("-P", weights, "-e", "trace=preadv,preadv2", "-e", "inject=preadv,preadv2:error=ENOMEM")
        with attached(process.pid, tmp_path / "trace", *inject):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
        process.wait(20)

    weights_blob = Descriptor("", Digest.parse(model.weights), CHUNK_SIZE)
    assert "ENOMEM" in (tmp_path / "trace").read_text()
    assert store.blobs.look(weights_blob) == (BlobStatus.STORED, True)


async def test_a_disk_that_hangs_stops_nothing_but_the_scrub(store: Store, tmp_path: Path) -> None:
    """Not even while the scrub ends early, with reads under way."""
    needs_strace()
    model = synthetic_model(weights_bytes=4 * CHUNK_SIZE)
    put(store, model)
    code = """
import asyncio, sys, time
from pathlib import Path
from syncd.jobs.scrub import ScrubWish
from syncd.store.root import Store
from tests.scrub.world import Heard, scrubbed

async def main(store):
    heard = Heard()
    task = asyncio.create_task(scrubbed(store, heard=heard))
    await asyncio.sleep(1.0)
    task.cancel()
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest

with Store.open(Path(sys.argv[1]), create=False) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    print(asyncio.run(main(store)), flush=True)
"""
    with python(code, store.path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        weights = str(blob_file(store, model.weights))
        inject = ("-P", weights, "-e", "trace=preadv,preadv2", "-e", "inject=preadv,preadv2:delay_enter=4s")
        with attached(process.pid, tmp_path / "trace", *inject):
            process.stdin.write("\n")
            process.stdin.flush()
            held = float(process.stdout.readline())
        process.wait(30)

    assert held < 3.0


async def test_a_link_where_a_blob_should_be_is_damage(store: Store, tmp_path: Path) -> None:
    model = build_model("mistral:7b")
    put(store, model)
    path = blob_file(store, model.weights)
    shutil.copy(path, tmp_path / "elsewhere")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")

    heard = Heard()
    await scrubbed(store, heard=heard)

    assert [(one.kind, str(one.blob.digest)) for one in heard.damages] == [(DamageKind.MISSING, model.weights)]


async def test_damage_is_found_at_whatever_offset(store: Store) -> None:
    model = synthetic_model(weights_bytes=CHUNK_SIZE + BLOCK_BYTES + 5)
    put(store, model)
    path = blob_file(store, model.weights)
    path.chmod(0o644)
    for at in (0, BLOCK_BYTES - 1, BLOCK_BYTES, CHUNK_SIZE, CHUNK_SIZE + BLOCK_BYTES + 4):
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))
            file.flush()

            heard = Heard()
            await scrubbed(store, heard=heard)
            assert [one.chunks for one in heard.damages] == [(at // CHUNK_SIZE,)]

            file.seek(at)
            file.write(bytes([byte]))
        assert (await scrubbed(store)).damaged == 0


def _knows_direct_reads(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    fd = os.open(probe, os.O_RDONLY)
    try:
        return DirectFile(fd).direct
    finally:
        os.close(fd)
        probe.unlink()


def _evict(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cached(path: Path) -> int:
    done = subprocess.run(
        ("fincore", "--bytes", "--noheadings", "--output", "RES", path), check=True, capture_output=True, text=True
    )
    return int(done.stdout)
