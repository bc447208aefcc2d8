"""A repair that is killed at a call by which it changes the store, at one after another; and calls that fail there.

It runs in one thread under strace (``tests.crash``), as a pull of the damaged model: a repair and that are one path.
"""

import asyncio
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.jobs.verify import verify
from syncd.oci.chunks import CHUNK_SIZE
from syncd.store.root import Store
from tests.crash import strace
from tests.crash.scene import Puller
from tests.crash.strace import TracedEnding
from tests.pull.world import blob_file
from tests.repair.world import flipped
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.store_copies import Template

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

_ROTTEN = 2**20 + 1000  # bytes of the second chunk, which is the last: it comes in several pieces
_SIZE = CHUNK_SIZE + _ROTTEN
_AT = CHUNK_SIZE + 5
_AS_BYTES_ARRIVE = "pwritev,pwritev2"  # how many pieces a chunk comes in, the network decides anew in every run


@dataclass(frozen=True, slots=True)
class Rotten:
    """A store whose weights have a wrong bit in their second chunk, which is known. Copies share the files' inodes.

    ``rotten``: their SHA-256 as they are.
    """

    registry: ScriptedRegistry
    model: ModelHandle
    puller: Puller
    folder: Path
    numbers: Iterator[int]
    template: Template
    rotten: str

    @property
    def weights(self) -> str:
        return blob_file(self.model.weights)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}-{next(self.numbers)}"

    def store(self) -> Path:
        """A fresh copy."""
        return self.template.copy(self.path("store"))

    def pull(self, store: Path, *options: str) -> TracedEnding:
        self.registry.forget_requests()
        return self.puller.traced(store, self.model.name, self.path("trace"), *options)

    def assert_not_worse(self, store: Path) -> None:
        """The model is published, and its weights are what they were, or right."""
        with (store / "blobs" / self.weights).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        assert found in {self.weights.removeprefix("sha256-"), self.rotten}

    def assert_mended(self, store: Path) -> None:
        assert assert_store_whole(store) == {self.model.name: self.model.digest}
        assert (store / ".syncd/keep" / self.weights).samefile(store / "blobs" / self.weights)


@pytest.fixture(scope="module")
def rotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotten]:
    strace.needs_strace()
    memory = Path("/dev/shm")
    folder = memory / f"syncd-repair-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("repair")
    folder.mkdir(exist_ok=True)
    try:
        with ScriptedRegistry() as registry, Puller() as puller:
            model = registry.add(synthetic_model(weights_bytes=_SIZE))
            template = folder / "template"
            assert puller.pull(template, model.name).done
            weights = template / "blobs" / blob_file(model.weights)
            flipped(_AT)(weights)
            asyncio.run(_find(template))
            spoilt = hashlib.sha256(weights.read_bytes()).hexdigest()
            yield Rotten(registry, model, puller, folder, itertools.count(), Template(template), spoilt)
    finally:
        shutil.rmtree(folder)


async def _find(path: Path) -> None:
    with Store.open(path, create=False) as store:
        assert (await verify(store, None, on_progress=lambda _: None)).faults


@pytest.mark.parametrize(
    "kind",
    [
        "openat",
        "write",
        _AS_BYTES_ARRIVE,
        "copy_file_range",
        "fallocate",
        "ftruncate",
        "fchmod",
        "utimensat",
        "fsync",
        "fdatasync",
        "linkat",
        "renameat",
        "mkdirat",
        "unlinkat",
    ],
)
def test_a_repair_that_is_killed_is_gone_on_with_and_loses_nothing(rotten: Rotten, kind: str) -> None:
    clean = rotten.store()
    trace = rotten.pull(clean, "-e", f"trace={kind}")
    assert trace.done, trace.result
    calls = [call for call in trace.calls if call.name in kind.split(",")]
    shutil.rmtree(clean)
    changing = [at for at, call in enumerate(calls, 1) if kind != "openat" or call.creates]
    assert changing, "it happens in a repair"

    kills = 0
    for number in changing:
        store = rotten.store()
        ending = rotten.pull(store, "-e", f"trace={kind}", "-e", f"inject={kind}:signal=KILL:when={number}")
        kills += ending.killed
        if kind == _AS_BYTES_ARRIVE and ending.done:  # in fewer pieces than the traced one
            rotten.assert_mended(store)
            shutil.rmtree(store)
            continue
        assert ending.killed, ending.result
        rotten.assert_not_worse(store)
        first = rotten.registry.bytes_served(rotten.model.weights)
        assert first <= _ROTTEN

        rotten.registry.forget_requests()
        again = rotten.puller.pull(store, rotten.model.name)

        assert again.done, again.result
        assert rotten.registry.bytes_served(rotten.model.weights) <= _ROTTEN, "what was right is not fetched"
        rotten.assert_mended(store)
        shutil.rmtree(store)
    assert kills > len(changing) / 2


def test_what_cannot_be_read_is_fetched(rotten: Rotten) -> None:
    """A bad sector under a chunk that nobody has found yet."""
    reads = "preadv,preadv2"
    clean = rotten.pull(rotten.store(), "-e", f"trace={reads}")
    old = [
        at
        for at, call in enumerate(clean.calls, 1)
        if any(path.endswith(f"blobs/{rotten.weights}") for path in call.paths)
    ]
    assert old, "the damaged file is read"
    store = rotten.store()

    ending = rotten.pull(
        store, "-e", f"trace={reads}", "-e", f"inject={reads}:error=EIO:when={old[0] + 8}"
    )  # in the first chunk

    assert ending.hit
    assert ending.done, ending.result
    assert rotten.registry.bytes_served(rotten.model.weights) == _SIZE, "the rotten and the unreadable chunk"
    rotten.assert_mended(store)


@pytest.mark.parametrize("kind", ["copy_file_range", "fallocate", "pwritev,pwritev2"])
def test_a_disk_that_is_full_leaves_the_damaged_blob_as_it_was(rotten: Rotten, kind: str) -> None:
    store = rotten.store()

    ending = rotten.pull(store, "-e", f"trace={kind}", "-e", f"inject={kind}:error=ENOSPC:when=1+")

    assert ending.hit
    assert (ending.returncode, ending.result["error"]) == (7, "NoSpaceError")
    rotten.assert_not_worse(store)
    assert rotten.puller.pull(store, rotten.model.name).done
    rotten.assert_mended(store)
