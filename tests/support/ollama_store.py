"""Models put into a folder as Ollama lays them out, for servers that only read it."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.support.content import whole
from tests.support.models import Model, model_from
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


def hosted(name: str, host: str = "https://example.invalid:443", model: str = "big:1t") -> Model:
    """A stub of a model that another host runs: no weights, and a config that says where it is."""
    return model_from(name, [("license", b"none")], {"remote_host": host, "remote_model": model})


def age(path: Path, seconds: float = OLD) -> Path:
    """Make a file that much older by its mtime."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def damage(store: Path) -> list[str]:
    """What a server would not serve, or serve wrongly: manifests that do not parse, blobs that are gone or changed."""
    found = []
    for path in sorted(each for each in (store / "manifests").rglob("*") if each.is_file()):
        model = "/".join(path.relative_to(store / "manifests").parts)
        try:
            manifest = json.loads(path.read_bytes())
        except ValueError:
            found.append(f"{model}: not a manifest")
            continue
        found += [
            f"{model}: {fault}" for part in (manifest["config"], *manifest["layers"]) if (fault := _fault(store, part))
        ]
    return found


def _fault(store: Path, part: dict[str, Any]) -> str | None:
    path = blob_path(store, part["digest"])
    if not path.exists():
        return f"{path.name} is gone"
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    return None if part["digest"] == f"sha256:{contents}" else f"{path.name} holds other bytes"
