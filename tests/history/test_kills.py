"""SIGKILL at the system calls of a rollback that change a file: nothing is lost, and the next run gets there."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import strace
from tests.crash.scene import Puller, Scene
from tests.crash.strace import TracedEnding
from tests.history.world import forget, held
from tests.support.forks import Ending
from tests.support.oracle import assert_store_whole, unreferenced_blobs
from tests.support.registry import ScriptedRegistry
from tests.support.store_copies import Template

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

_AS_BYTES_ARRIVE = {"pwritev", "pwritev2"}  # how many pieces a blob comes in, the network decides anew in every run


class Rollbacks:
    """A scene whose template has pulled the new version, and has lost the weights of the old one."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        path = scene.store()
        ending = scene.puller.pull(path, scene.new.name)
        assert ending.done, ending.result
        forget(path, scene.old.weights)
        self._template = Template(path)

    def store(self) -> Path:
        """A copy whose blobs are known by their records, as those of the template are."""
        return self._template.copy(self.scene.path())

    def traced(self, store: Path, *options: str) -> TracedEnding:
        return self.scene.puller.traced(store, self.scene.new.name, self.scene.path("trace"), *options, rollback=True)

    def ended(self, store: Path) -> Ending:
        """A rollback that nothing disturbs."""
        return self.scene.puller.pull(store, self.scene.new.name, rollback=True)

    def visible(self, store: Path) -> str:
        """The version that is published, beside the other model; both are whole."""
        found = assert_store_whole(store)
        assert found.keys() == {self.scene.new.name, self.scene.other.name}
        return found[self.scene.new.name]


@pytest.fixture(scope="module")
def rollbacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollbacks]:
    strace.needs_strace()
    memory = Path("/dev/shm")
    folder = tmp_path_factory.mktemp("rollbacks")
    if os.access(memory, os.W_OK):  # a kill needs no slow disk
        shutil.rmtree(memory / folder.name, ignore_errors=True)
        folder = memory / f"syncd-{os.getpid()}-{folder.name}"
        folder.mkdir()
    try:
        with ScriptedRegistry() as registry, Puller() as puller:
            yield Rollbacks(Scene(registry, puller, folder.resolve()))
    finally:
        shutil.rmtree(folder)


def test_a_kill_at_any_call_of_a_rollback_leaves_one_version_whole_and_the_next_run_ends_it(
    rollbacks: Rollbacks,
) -> None:
    scene = rollbacks.scene
    old, new = scene.old.digest, scene.new.digest
    clean = rollbacks.traced(rollbacks.store(), "-e", f"trace={strace.CHANGING}")
    assert clean.done, clean.result
    seen: set[tuple[str, str | None]] = set()
    kills = points = 0
    numbers: Counter[str] = Counter()
    for call in clean.calls:
        kind = call.name
        numbers[kind] += 1
        if kind == "openat" and not call.creates:  # opening what is there changes nothing
            continue
        number = numbers[kind]  # strace counts each kind by itself
        points += 1
        store = rollbacks.store()

        ending = rollbacks.traced(store, "-e", f"trace={kind}", "-e", f"inject={kind}:signal=KILL:when={number}")

        kills += ending.killed
        # In fewer pieces than the traced one: then it is done.
        assert ending.killed or (kind in _AS_BYTES_ARRIVE and ending.done), (kind, number, ending.result)
        now, pinned = rollbacks.visible(store), held(store, scene.new.name)
        seen.add((now, pinned))
        assert (now, pinned) in {(new, None), (new, old), (old, old)}, "it is never back without being pinned"
        assert ending.killed or (now, pinned) == (old, old)
        if now == new or list((store / ".syncd" / "leases").iterdir()):
            assert rollbacks.ended(store).done, "the same command ends it"
        assert (rollbacks.visible(store), held(store, scene.new.name)) == (old, old)
        assert unreferenced_blobs(store) <= set(scene.new.blobs)
    assert kills > points / 2
    assert {(new, None), (old, old)} <= seen, "kills came before and after it was back"
