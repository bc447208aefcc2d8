"""A store with one pulled model of a few chunks, and what can happen to a file of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from syncd.download.means import FetchSettings
from syncd.jobs.damage import Damage, DamageKind
from syncd.jobs.repair import Repaired, repair
from syncd.jobs.verify import verify
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from tests.pull.world import QUICK, blob_file, means, model_name, pulled
from tests.support.content import Generated
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

CHUNKS = 3
SIZE = (CHUNKS - 1) * CHUNK_SIZE + 4096 * 100 + 7  # the last chunk is short and ends nowhere in particular


@dataclass(frozen=True, slots=True)
class Scene:
    """``model`` was pulled into the store at ``path`` from ``registry``."""

    registry: ScriptedRegistry
    model: ModelHandle
    path: Path

    @property
    def weights(self) -> Descriptor:
        return Descriptor("application/vnd.ollama.image.model", Digest.parse(self.model.weights), SIZE)

    @property
    def file(self) -> Path:
        return self.path / "blobs" / blob_file(self.model.weights)

    @property
    def kept(self) -> Path:
        return self.path / ".syncd" / "keep" / self.file.name

    @property
    def record(self) -> Path:
        return self.path / ".syncd" / "records" / self.file.name

    @property
    def damage(self) -> Damage:
        return Damage(self.weights, DamageKind.WRONG_BYTES, None, (model_name(self.model.name),), "as the test made it")

    def served(self) -> int:
        """Bytes of the weights that crossed the network since the damage was done."""
        return self.registry.bytes_served(self.model.weights)

    def assert_whole(self) -> None:
        """Everything is as a pull leaves it."""
        assert assert_store_whole(self.path) == {self.model.name: self.model.digest}
        assert self.kept.samefile(self.file)
        assert not list((self.path / ".syncd" / "staging").iterdir())
        assert not list((self.path / ".syncd" / "leases").iterdir())
        with Store.open(self.path, create=False) as store:
            assert store.blobs.look(self.weights) == (BlobStatus.STORED, True)
            record = store.records.get(self.weights.digest)
            assert record
            assert record.has_map


async def scene_at(registry: ScriptedRegistry, path: Path) -> Scene:
    model = registry.add(synthetic_model(weights_bytes=SIZE))
    await pulled(model.name, path)
    registry.forget_requests()
    return Scene(registry, model, path)


async def verified(scene: Scene) -> bool:
    """Whether a verification finds every byte right; it remembers what it finds."""
    with Store.open(scene.path, create=False) as store:
        return not (await verify(store, None, on_progress=lambda _: None)).faults


async def repaired(scene: Scene, *, settings: FetchSettings = QUICK, floor: int = 0) -> Repaired:
    """One repair of the weights."""
    with Store.open(scene.path, create=False) as store:
        async with means(store, settings=settings, floor=floor) as everything:
            return await repair(store, everything, scene.damage)


# What can happen to a file

Damaging = Callable[[Path], None]


def writable(path: Path) -> None:
    path.chmod(0o644)


def flipped(offset: int) -> Damaging:
    """One bit is another."""

    def damage(path: Path) -> None:
        writable(path)
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes((byte ^ 1,)))

    return damage


def zeroed(offset: int, size: int = 4096) -> Damaging:
    def damage(path: Path) -> None:
        writable(path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(size))

    return damage


def truncated(size: int) -> Damaging:
    def damage(path: Path) -> None:
        writable(path)
        os.truncate(path, size)

    return damage


def extended(path: Path) -> None:
    writable(path)
    with path.open("ab") as file:
        file.write(b"x" * 5000)


def deleted(path: Path) -> None:
    """Under both names."""
    path.unlink()
    (path.parents[1] / ".syncd" / "keep" / path.name).unlink()


def unlinked(path: Path) -> None:
    """As an outside Ollama does: the link in keep/ stays."""
    path.unlink()


def unlinked_after(first: Damaging) -> Damaging:
    """And then its name in ``blobs/`` is gone."""

    def damage(path: Path) -> None:
        first(path)
        unlinked(path)

    return damage


def unseen(damage: Damaging) -> Damaging:
    """Rot: size and mtime stay."""

    def quiet(path: Path) -> None:
        before = path.stat()
        damage(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return quiet


def replaced_by(seed: int) -> Damaging:
    """Another program put another file there."""

    def damage(path: Path) -> None:
        other = path.with_name("sha256-" + "0" * 64)
        Generated(SIZE, seed).write_to(other)
        other.rename(path)

    return damage
