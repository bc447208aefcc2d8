"""A store with a past, a registry with a new version, and pulls that faults hit."""

import asyncio
import stat
import time
from collections.abc import Collection
from pathlib import Path

from blake3 import blake3

from syncd.download import journal
from syncd.jobs.collect import collect
from syncd.oci.chunks import chunk_bounds
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store.root import Store
from tests.crash import strace
from tests.support.content import Content, digest_of
from tests.support.forks import Ending, Forker, Run
from tests.support.gguf_files import Shape, language_model
from tests.support.models import Model, model_from
from tests.support.oracle import assert_store_whole, unreferenced_blobs
from tests.support.registry import ScriptedRegistry
from tests.support.store_copies import Template

_TEMPLATE = b"[INST] {{ .Prompt }} [/INST] {{ .Response }}"


class Puller(Forker):
    """Pulls in processes of their own (see ``pulls``)."""

    def __init__(self) -> None:
        super().__init__("tests.crash.pulls")

    def start(self, store: Path, name: str, *, connections: int = 1) -> Run:
        """Begin a pull, in as many threads as it likes."""
        return self._forked(store, name, rollback=False, one_thread=False, connections=connections).go()

    def pull(self, store: Path, name: str, *, connections: int = 1, rollback: bool = False) -> Ending:
        """One whole pull, or rollback to the version before, that nothing disturbs."""
        return self._forked(store, name, rollback=rollback, one_thread=False, connections=connections).go().wait()

    def traced(self, store: Path, name: str, trace: Path, *options: str, rollback: bool = False) -> strace.TracedEnding:
        """One whole pull in one thread, under strace from its first call on; ``trace``: the file to trace into.

        ``rollback``: to the version before, instead.
        """
        run = self._forked(store, name, rollback=rollback, one_thread=True, connections=1)
        return strace.traced(run, trace, *options)

    def _forked(self, store: Path, name: str, *, rollback: bool, one_thread: bool, connections: int) -> Run:
        arguments = {
            "store": str(store),
            "name": name,
            "rollback": rollback,
            "one_thread": one_thread,
            "connections": connections,
        }
        return self.fork("tests.crash.pulls:pulled", arguments)


class Scene:
    """A registry, and a store that holds one model in its old version and another that shares a blob with it.

    What is pulled is the new version: two new blobs, and one that is there. Stores are copied from one template by hard
    links, since syncd knows a blob again by its inode.
    """

    def __init__(self, registry: ScriptedRegistry, puller: Puller, folder: Path) -> None:
        self.registry = registry
        self.puller = puller
        self._folder = folder
        self._count = 0
        self.old = registry.add(model("mistral:7b", seed=1))
        self.other = registry.add(model("codellama:7b", seed=2))
        self._template = folder / "template"
        for handle in (self.old, self.other):
            ending = puller.pull(self._template, handle.name)
            assert ending.done, ending.result
        self._as_it_is = Template(self._template)
        self.new = registry.add(model("mistral:7b", seed=3))

    @property
    def template(self) -> Path:
        return self._template

    def path(self, name: str = "store") -> Path:
        """A path that nothing lies at."""
        self._count += 1
        return self._folder / f"{name}-{self._count}"

    def store(self) -> Path:
        """A fresh copy of the template."""
        return self._as_it_is.copy(self.path())

    def assert_nothing_lost(self, store: Path, *, past: bool = True) -> None:
        """What is visible is whole; ``past``: and both models are, one in its old version or its new one."""
        visible = assert_store_whole(store)
        expected = {self.other.name: {self.other.digest}, self.new.name: {self.old.digest, self.new.digest}}
        if past:
            assert visible.keys() == expected.keys()
        for name, digest in visible.items():
            assert digest in expected[name], f"{name} is {digest}"

    def assert_converges(
        self, store: Path, *, past: bool = True, leftovers: int = 0, verified: Collection[str] = ()
    ) -> None:
        """One more run makes it whole and current, fetches only what was not there, and leaves nothing behind.

        ``leftovers``: so many temporary files at most, of a process that was killed while it wrote one. ``verified``:
        blobs that are known to have been there whole.
        """
        held = {digest: bytes_held(store, digest, blob) for digest, blob in self.new.blobs.items()}
        for digest in verified:
            assert held[digest] == self.new.blobs[digest].size, f"{digest} was there, and its journal is lost"
        self.registry.forget_requests()
        ending = self.puller.pull(store, self.new.name)
        assert ending.done, ending.result
        for digest, blob in self.new.blobs.items():
            served = self.registry.bytes_served(digest)
            assert served <= blob.size - held[digest], f"{digest}: {held[digest]} bytes held, {served} fetched again"
        self.assert_current(store, past=past, leftovers=leftovers)

    def assert_current(self, store: Path, *, past: bool = True, leftovers: int = 0) -> None:
        """The new version is published, all is whole, kept and recorded, and nothing else lies about."""
        models = (self.old, self.new, self.other) if past else (self.new,)
        visible = assert_store_whole(store)
        assert visible == {one.name: one.digest for one in models if one is not self.old}
        names = {digest.replace(":", "-") for one in models for digest in one.blobs}
        assert {path.name for path in (store / "blobs").iterdir()} == names
        assert stat.S_IMODE(store.stat().st_mode) == 0o755, "other users' containers cannot enter"
        own = store / ".syncd"
        for name in names:
            assert (own / "keep" / name).samefile(store / "blobs" / name), f"{name} is not kept"
            assert (own / "records" / name).is_file(), f"{name} has no record"
        staged = [path.name for path in (own / "staging").iterdir()]
        assert all(name.startswith("tmp-") for name in staged), staged
        assert len(staged) <= leftovers, staged
        assert not list((own / "leases").iterdir()), "orphan leases"

    def assert_collectable(self, store: Path) -> None:
        """A collection, a week later, takes all that crashes left, and nothing that a model needs."""
        visible = assert_store_whole(store)
        with Store.open(store, create=False) as opened:
            asyncio.run(collect(opened, now=time.time() + 8 * 24 * 3600))
        assert assert_store_whole(store) == visible
        assert not unreferenced_blobs(store)
        own = store / ".syncd"
        blobs = {path.name for path in (store / "blobs").iterdir()}
        assert {path.name for path in (own / "keep").iterdir()} == blobs
        assert {path.name for path in (own / "records").iterdir()} == blobs
        for folder in ("staging", "leases", "trash"):
            assert not list((own / folder).iterdir()), folder


def model(name: str, *, seed: int) -> Model:
    """A small model with real GGUF weights; all of them share a template."""
    weights = language_model(Shape("llama", name, 4096, 4096, seed))
    return model_from(name, [("model", weights), ("template", _TEMPLATE)])


def bytes_held(store: Path, digest: str, blob: Content) -> int:
    """How much of a blob the store verifiably holds: committed, or in a partial as its journal says."""
    file = digest.replace(":", "-")
    own = store / ".syncd"
    for folder in (store / "blobs", own / "keep"):
        if (folder / file).is_file() and digest_of((folder / file).read_bytes()) == digest:
            return blob.size
    partial, log = own / "staging" / f"{file}.partial", own / "staging" / f"{file}.journal"
    if not (partial.is_file() and log.is_file() and partial.stat().st_size == blob.size):
        return 0
    descriptor = Descriptor("application/octet-stream", Digest.parse(digest), blob.size)
    held = 0
    with partial.open("rb") as content:
        for index, claimed in journal.parse(log.read_bytes(), descriptor).chunks.items():
            start, end = chunk_bounds(index, blob.size)
            content.seek(start)
            if blake3(content.read(end - start)).digest() == claimed:
                held += end - start
    return held
