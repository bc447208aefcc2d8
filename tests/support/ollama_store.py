"""Models put into a folder as Ollama lays them out, for servers that only read it."""

import os
import time
from pathlib import Path

from tests.support.content import whole
from tests.support.models import Model
from tests.support.standin.names import Name

OLD = 2 * 3600.0  # seconds: past the hour for which a server's pruning leaves a file alone


def blob_path(store: Path, digest: str) -> Path:
    """Where ``sha256:…`` lies."""
    return store / "blobs" / digest.replace(":", "-")


def manifest_path(store: Path, name: str) -> Path:
    return store.joinpath("manifests", *Name.parse(name).parts)


def put(store: Path, model: Model, name: str | None = None) -> Path:
    """Write the model's blobs and its manifest, under its own name or another. Return the manifest's path."""
    for digest, blob in model.blobs.items():
        path = blob_path(store, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole(blob))
    path = manifest_path(store, name or model.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.manifest)
    return path


def age(path: Path, seconds: float = OLD) -> Path:
    """Make a file that much older by its mtime."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path
