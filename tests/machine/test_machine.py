"""Whatever is done to a store, in whatever order and killed wherever: what Ollama sees of it is whole.

Real files, a real registry, real processes that are killed, and an Ollama beside them that prunes and removes.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from structlog.testing import capture_logs

from tests.machine.acts import perform
from tests.pull.world import model_name
from tests.support.forks import Forker
from tests.support.models import Model, model_from
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry
from tests.support.standin.names import Name
from tests.support.standin.store import Store as OllamasStore

STEPS = 10_000
SHARDS = 4
EXAMPLES = 44
STEPS_OF_ONE = 70
KIB = 1 << 10
HOUR = 3600.0

NAMES = ("one:1b", "two:1b", "three:1b")
VERSIONS = 3
MOMENTS = [0.0, 0.001, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05]
_AT_ONCE = 1e-6


def _version(name: str, number: int) -> Model:
    """Versions share a template, and names a license; the third version has the weights of the first."""
    weights = random.Random(f"{name} {number % 2}").randbytes(24 * KIB)
    return model_from(
        name,
        [
            ("model", weights),
            ("template", f"{name} {{{{ .Prompt }}}}".encode()),
            ("params", json.dumps({"seed": number}).encode()),
            ("license", b"Do as you like.\n"),
        ],
    )


MODELS = {(name, number): _version(name, number) for name in NAMES for number in range(VERSIONS)}
NAMED = st.sampled_from(NAMES)


@contextmanager
def _steps_counted() -> Iterator[list[int]]:
    counted = [0]
    StoreMachine.counted = counted
    yield counted


class StoreMachine(RuleBasedStateMachine):
    """``allowed``: what each name may hold now; after a kill that is the old or the new."""

    registry: ClassVar[ScriptedRegistry]
    forker: ClassVar[Forker]
    folder: ClassVar[Path]
    counted: ClassVar[list[int]]

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=self.folder)) / "models"
        self.later = 0.0
        self.full: dict[str, str] = {}
        self.served: dict[str, str] = {}
        self.allowed: dict[str, set[str | None]] = {}
        self.rotten: set[str] = set()  # and nobody has found it yet
        self.found: set[str] = set()  # what nobody named then stays as it is, and counts as stored no longer
        for name in NAMES:
            self._serve(name, 0)
            self.allowed[name] = {None}
        # A server expects both folders, and a store of syncd's has them.
        perform(self.path, "collect", time.time(), 0)

    def teardown(self) -> None:
        shutil.rmtree(self.path.parent)

    # What happens

    @rule(name=NAMED, number=st.integers(0, VERSIONS - 1))
    def tag_moves(self, name: str, number: int) -> None:
        self._serve(name, number)

    @rule(name=NAMED)
    def pull(self, name: str) -> None:
        whole = self._whole_files()
        came = self._do("pull", self.full[name])

        if came.startswith("sha256:"):
            assert came == self.served[name]
            self.allowed[name] = {came}
        for digest in whole & MODELS_DIGESTS:
            assert not self.registry.bytes_served(digest), f"{digest} was on the disk, and was fetched"

    @rule(name=NAMED, moment=st.sampled_from(MOMENTS))
    def pull_is_killed(self, name: str, moment: float) -> None:
        self._killed(moment, "pull", self.full[name])
        self.allowed[name].add(self.served[name])

    @rule(name=NAMED)
    def remove(self, name: str) -> None:
        self._do("remove", self.full[name], time.time() + self.later)
        self.allowed[name] = {None}

    @rule(keep_previous=st.integers(0, 1))
    def collect(self, keep_previous: int) -> None:
        self._do("collect", time.time() + self.later, keep_previous)

    @rule(moment=st.sampled_from(MOMENTS))
    def collection_is_killed(self, moment: float) -> None:
        self._killed(moment, "collect", time.time() + self.later, 0)

    @rule(name=NAMED)
    def roll_back(self, name: str) -> None:
        came = self._do("roll back", self.full[name])
        if came.startswith("sha256:"):
            self.allowed[name] = {came}

    @rule(name=NAMED, moment=st.sampled_from(MOMENTS))
    def rollback_is_killed(self, name: str, moment: float) -> None:
        self._killed(moment, "roll back", self.full[name])
        self.allowed[name] |= {MODELS[name, number].digest for number in range(VERSIONS)}

    @rule(name=NAMED)
    def release(self, name: str) -> None:
        self._do("release", self.full[name])

    @rule(name=NAMED)
    def restore(self, name: str) -> None:
        came = self._do("restore", self.full[name])
        if came == "restored":
            self.allowed[name] |= {MODELS[name, number].digest for number in range(VERSIONS)}

    @rule(name=NAMED)
    def a_pull_dies_when_it_has_begun(self, name: str) -> None:
        self._do("lease", self.full[name])

    @rule(hours=st.sampled_from([0.5, 2.0, 24.0 * 8]))
    def time_passes(self, hours: float) -> None:
        self.later += hours * HOUR

    @rule(grace=st.sampled_from([0.0, HOUR]))
    def an_ollama_starts_and_prunes(self, grace: float) -> None:
        self._ollama().start(prune=True, grace=grace)

    @rule(name=NAMED)
    def an_ollama_removes(self, name: str) -> None:
        ollamas = Name.parse(self.full[name])
        if self._ollama().manifest_path(ollamas).exists():
            self._ollama().delete(ollamas)
            self.allowed[name] = {None}

    @rule(name=NAMED, how=st.sampled_from(["flip", "zero", "cut", "extend", "delete"]), at=st.integers(0, 24 * KIB - 1))
    def a_disk_rots(self, name: str, how: str, at: int) -> None:
        """The weights of what is published: their times stay as they were."""
        for manifest in self._manifests(name):
            file = self._blob(manifest["layers"][0]["digest"])
            if file.exists():
                _spoil(file, how, at)
                self.rotten.add(manifest["layers"][0]["digest"])

    @rule()
    def everything_is_scrubbed_and_mended(self) -> None:
        assert self._do("mend") == "whole"
        self.found |= self.rotten
        self.rotten.clear()

    @rule(moment=st.sampled_from(MOMENTS))
    def mending_is_killed(self, moment: float) -> None:
        self._killed(moment, "mend")

    # What holds

    @invariant()
    def what_is_seen_is_whole(self) -> None:
        self.counted[0] += 1
        self.rotten = {digest for digest in self.rotten if not self._is_right(digest)}
        self.found = {digest for digest in self.found if not self._is_right(digest)}
        if not self.rotten and not self.found:
            found = assert_store_whole(self.path)
            for name in NAMES:
                full = "/".join(model_name(self.full[name]).parts[:3]) + ":" + self.full[name].rpartition(":")[2]
                assert found.get(full) in self.allowed[name], f"{name} holds {found.get(full)}"
            return
        for name in NAMES:
            for manifest in self._manifests(name):
                for part in (manifest["config"], *manifest["layers"]):
                    assert part["digest"] in self.rotten or self._is_right(part["digest"]), part

    # How

    def _serve(self, name: str, number: int) -> None:
        handle = self.registry.add(MODELS[name, number])
        self.full[name], self.served[name] = handle.name, str(handle.digest)

    def _do(self, act: str, *arguments: object) -> str:
        self.registry.forget_requests()
        return perform(self.path, act, *arguments)

    def _killed(self, moment: float, act: str, *arguments: object) -> None:
        """``moment``: seconds from where the process, which has everything imported, begins with it."""
        order = {"path": str(self.path), "act": act, "arguments": arguments}
        run = self.forker.fork("tests.machine.acts:perform_quietly", order).go()
        try:
            ending = run.wait(moment or _AT_ONCE)
        except TimeoutError:
            ending = run.kill()
        assert ending.killed or ending.done, ending.result

    def _ollama(self) -> OllamasStore:
        return OllamasStore(self.path, random.Random(0))

    def _blob(self, digest: str) -> Path:
        return self.path / "blobs" / digest.replace(":", "-")

    def _manifests(self, name: str) -> Iterator[dict[str, list[dict[str, str]]]]:
        file = self.path.joinpath("manifests", *model_name(self.full[name]).parts)
        if file.exists():
            yield json.loads(file.read_bytes())

    def _is_right(self, digest: str) -> bool:
        """Wherever it lies; what is kept out of sight comes back without being read again."""
        kept = self.path / ".syncd" / "keep" / self._blob(digest).name
        there = [file for file in (self._blob(digest), kept) if file.exists()]
        missing = digest in self._named() and not self._blob(digest).exists()
        return not missing and all(_has(file, digest) for file in there)

    def _named(self) -> set[str]:
        return {
            part["digest"]
            for name in NAMES
            for manifest in self._manifests(name)
            for part in (manifest["config"], *manifest["layers"])
        }

    def _whole_files(self) -> set[str]:
        """Digests of what is right on the disk, in blobs/ or in keep/."""
        folders = (self.path / "blobs", self.path / ".syncd" / "keep")
        files = [file for folder in folders if folder.exists() for file in folder.iterdir()]
        return {digest for file in files if _has(file, digest := file.name.replace("-", ":"))}


MODELS_DIGESTS = {digest for model in MODELS.values() for digest in model.blobs}


def _has(file: Path, digest: str) -> bool:
    return file.exists() and f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" == digest


def _spoil(file: Path, how: str, at: int) -> None:
    found = file.stat()
    content = bytearray(file.read_bytes())
    at = min(at, max(len(content) - 1, 0))
    match how:
        case "delete":
            file.unlink()
            return
        case "flip":
            content[at] ^= 0x10
        case "zero":
            content[at : at + 4 * KIB] = bytes(len(content[at : at + 4 * KIB]))
        case "cut":
            del content[at:]
        case "extend":
            content += b"more"
    file.chmod(0o644)
    with file.open("r+b") as writing:
        writing.write(content)
        writing.truncate(len(content))
    file.chmod(0o444)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_whatever_happens_to_a_store_what_is_seen_is_whole(
    shard: int, registry: ScriptedRegistry, quick_path: Path
) -> None:
    # The class's name is what hypothesis derives its choices from, so that each shard goes its own way.
    machine = type(f"Store{shard}", (StoreMachine,), {"registry": registry, "folder": quick_path})
    choices = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS_OF_ONE,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    with Forker("tests.machine.acts") as machine.forker, _steps_counted() as steps, capture_logs():
        run_state_machine_as_test(machine, settings=choices)

    assert steps[0] >= STEPS // SHARDS
