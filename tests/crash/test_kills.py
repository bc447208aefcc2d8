"""SIGKILL in the middle of a blob of many chunks, and an fsync that failed before the process died."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.oci.chunks import CHUNK_SIZE
from tests.crash import strace
from tests.crash.scene import Puller, Scene, bytes_held
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

pytestmark = pytest.mark.crash

_CHUNKS = 8
_CONNECTIONS = 2
_IN_FLIGHT = 8 << 20  # what the kernel and the client hold of one connection on loopback before it is written


@dataclass(frozen=True, slots=True)
class Big:
    """A model whose weights have many chunks."""

    registry: ScriptedRegistry
    model: ModelHandle

    def wait_for(self, size: float) -> None:
        """Until so many bytes of the weights have gone out."""
        self.registry.wait_until(lambda registry: registry.bytes_served(self.model.weights) >= size)


@pytest.fixture(scope="module")
def big() -> Iterator[Big]:
    with ScriptedRegistry() as registry:
        yield Big(registry, registry.add(synthetic_model(weights_bytes=_CHUNKS * CHUNK_SIZE)))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_killed_pull_resumes_and_fetches_at_most_one_chunk_per_connection_again(
    big: Big, puller: Puller, tmp_path: Path, share: float
) -> None:
    registry, model, store = big.registry, big.model, tmp_path / "store"
    registry.forget_requests()
    run = puller.start(store, model.name, connections=_CONNECTIONS)
    big.wait_for(share * model.weights_size)
    assert run.kill().killed
    assert assert_store_whole(store) == {}
    held = bytes_held(store, model.weights, model.blobs[model.weights])
    before = registry.bytes_served(model.weights)

    assert puller.pull(store, model.name, connections=_CONNECTIONS).done

    assert assert_store_whole(store) == {model.name: model.digest}
    assert registry.bytes_served(model.weights) - before == model.weights_size - held
    again = registry.bytes_served(model.weights) - model.weights_size
    assert again <= _CONNECTIONS * (CHUNK_SIZE + _IN_FLIGHT), f"{again:,} bytes were fetched again"


def test_a_pull_killed_again_and_again_gets_there(big: Big, puller: Puller, tmp_path: Path) -> None:
    registry, model, store = big.registry, big.model, tmp_path / "store"
    registry.forget_requests()
    for kill in range(1, 6):
        run = puller.start(store, model.name, connections=_CONNECTIONS)
        big.wait_for(kill * 1.5 * CHUNK_SIZE)
        run.kill()
        assert_store_whole(store)

    assert puller.pull(store, model.name, connections=_CONNECTIONS).done

    assert assert_store_whole(store) == {model.name: model.digest}


@pytest.mark.parametrize("lost", [False, True], ids=["bytes there", "bytes lost"])
def test_a_failed_fsync_and_a_kill_before_it_is_dealt_with_publish_nothing_that_was_not_written(
    scene: Scene, lost: bool
) -> None:
    """The kernel takes pages for clean whose writing failed: ``lost`` shows what the disk holds of them then."""
    strace.needs_strace()
    store, staging = scene.store(), Path(".syncd/staging")
    clean = scene.puller.traced(store, scene.new.name, scene.path("trace"), "-e", "trace=fsync,unlinkat")
    fsyncs = [call for call in clean.calls if call.name == "fsync"]
    number = next(at for at, call in enumerate(fsyncs, 1) if call.paths[0].endswith(".partial"))
    fsync = clean.calls.index(fsyncs[number - 1])
    removals = sum(call.name == "unlinkat" for call in clean.calls[:fsync])

    store = scene.store()
    inject = (f"inject=fsync:error=EIO:when={number}", f"inject=unlinkat:signal=KILL:when={removals + 1}")
    options = ("-e", "trace=fsync,unlinkat", "-e", inject[0], "-e", inject[1])
    ending = scene.puller.traced(store, scene.new.name, scene.path("trace"), *options)
    assert ending.killed
    assert ending.hit
    assert [call.injected for call in ending.calls if call.name == "fsync"][-1]
    partial = store / staging / Path(fsyncs[number - 1].paths[0]).name
    if lost:
        partial.chmod(0o600)
        partial.write_bytes(bytes(partial.stat().st_size))

    scene.assert_nothing_lost(store)
    scene.assert_converges(store)
