"""A real store with real GGUF models, and the faults that a disk, a hand or a program can do to it."""

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from syncd.jobs.damage import Damage
from syncd.jobs.scrub import ScrubEars, ScrubResult, ScrubWish, scrub
from syncd.jobs.scrub_book import ScrubBook, ScrubProgress
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store.records import Identity, Record
from syncd.store.root import Store
from tests.support.content import whole
from tests.support.models import Model
from tests.unit.store_world import chunks_of, commit

KIB = 1024
MIB = 1024 * KIB


def put(store: Store, model: Model) -> Manifest:
    """Publish the model as a pull does: committed blobs, each with its record, then the manifest."""
    for blob in model.blobs.values():
        commit(store, whole(blob))
    manifest = Manifest.parse(model.manifest)
    name = ModelName.parse(model.name)
    lock = store.locks.try_references(shared=True)
    assert lock is not None
    with lock:
        store.models.publish(name, manifest, expected=store.models.tag_digest(name), held=lock)
    return manifest


def blob_file(store: Store, digest: str) -> Path:
    """Where ``sha256:…`` lies."""
    return store.path / "blobs" / digest.replace(":", "-")


@dataclass(slots=True)
class Heard:
    """What a scrub told."""

    moments: list[ScrubProgress] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    @property
    def ears(self) -> ScrubEars:
        return ScrubEars(
            progress=self.moments.append,
            damage=self.damages.append,
        )


def book_of(store: Store) -> ScrubBook:
    """As a process that has just started has it."""
    return ScrubBook(store, clock=time.time, monotonic=time.monotonic)


async def scrubbed(
    store: Store, wish: ScrubWish | None = None, book: ScrubBook | None = None, heard: Heard | None = None
) -> ScrubResult:
    """One scrub, of everything and at full speed unless ``wish`` says otherwise."""
    return await scrub(
        store,
        wish or ScrubWish(None, None),
        book or book_of(store),
        (heard or Heard()).ears,
        monotonic=time.monotonic,
    )


Fault = Callable[[Path, random.Random], None]


def _flip(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        at = chance.randrange(path.stat().st_size)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _zero(path: Path, chance: random.Random) -> None:
    """As an unmapped block reads; of a smaller file, all of it."""
    size = path.stat().st_size
    at = chance.randrange(max(1, size // (4 * KIB))) * 4 * KIB
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(4 * KIB, size - at)))


def _truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _extend(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(1 + chance.randrange(8 * KIB)))


def _delete(path: Path, _chance: random.Random) -> None:
    path.unlink()


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {"flip": _flip, "zero": _zero, "truncate": _truncate, "extend": _extend, "delete": _delete}
)
KINDS = MappingProxyType(
    {
        "flip": "wrong_bytes",
        "zero": "wrong_bytes",
        "truncate": "wrong_size",
        "extend": "wrong_size",
        "delete": "missing",
    }
)


def harm(path: Path, fault: str, chance: random.Random) -> None:
    """Do it, and leave the times as they were: as rot does."""
    before = path.stat()
    if fault != "delete":  # then the file itself stays as it is, in keep/
        path.chmod(0o644)
    FAULTS[fault](path, chance)
    if path.exists():
        path.chmod(0o444)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def restore(store: Store, digest: str, content: bytes) -> None:
    """The blob as it should be, in a new file, with a record of its own."""
    path = blob_file(store, digest)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    store.records.put(Record(Digest.parse(digest), Identity.of(path.stat()), chunks_of(content)))


def blob_of(manifest: Manifest, digest: str) -> Descriptor:
    return next(one for one in manifest.blobs if str(one.digest) == digest)
