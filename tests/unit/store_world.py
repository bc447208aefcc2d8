"""A real store in a temporary folder, with blobs and models that tests make in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import blake3

from syncd.oci.chunks import CHUNK_SIZE, ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store

ROOT = Path(__file__).parents[2]
NAME = ModelName.parse("mistral:7b")


def descriptor(content: bytes) -> Descriptor:
    return Descriptor("application/vnd.ollama.image.model", Digest.of(content), len(content))


def manifest_of(*contents: bytes) -> Manifest:
    """A manifest with these blobs; the last one is its config."""
    blobs = [{"mediaType": d.media_type, "digest": str(d.digest), "size": d.size} for d in map(descriptor, contents)]
    raw = json.dumps({"schemaVersion": 2, "layers": blobs[:-1], "config": blobs[-1]}).encode()
    return Manifest.parse(raw)


def chunks_of(content: bytes) -> ChunkMap:
    pieces = (content[at : at + CHUNK_SIZE] for at in range(0, len(content), CHUNK_SIZE))
    return ChunkMap(len(content), tuple(blake3.blake3(piece).digest() for piece in pieces))


def commit(store: Store, content: bytes) -> Descriptor:
    blob = descriptor(content)
    with store.blobs.partials.stage(blob) as partial:
        partial.write((content,), 0)
        store.blobs.commit(partial, chunks_of(content))
    return blob


def publish(store: Store, *contents: bytes, name: ModelName = NAME) -> Manifest:
    """Commit the blobs and publish them under the name, whatever it held."""
    manifest = manifest_of(*contents)
    for content in contents:
        commit(store, content)
    lock = store.locks.try_references(shared=True)
    assert lock is not None
    with lock:
        store.models.publish(name, manifest, expected=store.models.tag_digest(name), held=lock)
    return manifest


def blob_path(store: Store, blob: Descriptor, folder: str = "blobs") -> Path:
    return store.path / folder / f"sha256-{blob.digest.hex}"


def manifest_path(store: Store, name: ModelName = NAME) -> Path:
    return store.path.joinpath("manifests", *name.parts)


def age(path: Path, seconds: float) -> None:
    """Let the file have been changed this long before it was."""
    found = path.stat()
    os.utime(path, (found.st_atime, found.st_mtime - seconds))


def python(code: str, *args: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A second process that runs ``code`` with syncd at hand; it talks through stdin and stdout."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
