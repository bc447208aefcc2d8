"""The one judge of every fault test: is what Ollama would see whole? Plain Python, without a line of syncd."""

import hashlib
import json
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

_BLOB_NAME = re.compile(r"sha256-[0-9a-f]{64}")
_MANIFEST_DEPTH = 4  # host, namespace, model, tag


def assert_store_whole(store: Path, *, allow_missing: Collection[str] = ()) -> dict[str, str]:
    """Every visible manifest parses, and each blob it names is there, size and SHA-256 right; nothing else lies about.

    ``allow_missing``: digests (``sha256:…``) that need not be there. Returns name (``host/ns/model:tag``) -> digest of
    the manifest. A store of which nothing exists yet is whole.
    """
    found = {}
    checked: dict[str, int] = {}
    _assert_tree(store / "blobs", depth=1, file_mode=0o444)
    for blob in _files(store / "blobs"):
        assert _BLOB_NAME.fullmatch(blob.name), f"stray file in blobs: {blob.name}"
        checked[blob.name.replace("-", ":")] = blob.stat().st_size
        assert _sha256(blob) == blob.name.removeprefix("sha256-"), f"{blob.name} holds other bytes"
    _assert_tree(store / "manifests", depth=_MANIFEST_DEPTH, file_mode=0o644)
    for path in _files(store / "manifests"):
        host, namespace, model, tag = path.relative_to(store / "manifests").parts
        raw = path.read_bytes()
        manifest = json.loads(raw)
        for descriptor in (manifest["config"], *manifest["layers"]):
            digest, size = descriptor["digest"], descriptor["size"]
            if digest in allow_missing and digest not in checked:
                continue
            assert digest in checked, f"{path} names {digest}, which is not there"
            assert checked[digest] == size, f"{digest} has {checked[digest]} bytes, {path} says {size}"
        found[f"{host}/{namespace}/{model}:{tag}"] = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return found


def unreferenced_blobs(store: Path) -> set[str]:
    """Blobs (``sha256:…``) that no visible manifest names."""
    named = {
        descriptor["digest"]
        for path in _files(store / "manifests")
        for manifest in [json.loads(path.read_bytes())]
        for descriptor in (manifest["config"], *manifest["layers"])
    }
    return {blob.name.replace("-", ":") for blob in _files(store / "blobs")} - named


def snapshot(store: Path) -> dict[str, tuple[int, str]]:
    """What Ollama sees: path below the store -> (mode, SHA-256; of a folder '', of a link its target)."""
    seen = {}
    for tree in ("manifests", "blobs"):
        for path in sorted((store / tree).rglob("*")):
            mode = path.lstat().st_mode
            content = ""
            if stat.S_ISREG(mode):
                content = _sha256(path)
            elif stat.S_ISLNK(mode):
                content = str(path.readlink())
            seen[str(path.relative_to(store))] = (stat.S_IMODE(mode), content)
    return seen


def _assert_tree(root: Path, *, depth: int, file_mode: int) -> None:
    if not root.exists() and not root.is_symlink():
        return
    assert stat.S_ISDIR(root.lstat().st_mode), f"{root} is not a folder"
    assert stat.S_IMODE(root.lstat().st_mode) == 0o755, f"{root} has mode {root.lstat().st_mode:o}"
    for path in root.rglob("*"):
        status = path.lstat()
        mode, level = stat.S_IMODE(status.st_mode), len(path.relative_to(root).parts)
        if level < depth:
            assert stat.S_ISDIR(status.st_mode), f"{path} is not a folder"
            assert mode == 0o755, f"{path} has mode {mode:o}"
            assert any(path.iterdir()), f"{path} is an empty folder"
        else:
            assert level == depth, f"{path} lies too deep"
            assert stat.S_ISREG(status.st_mode), f"{path} is not a regular file"
            assert mode == file_mode, f"{path} has mode {mode:o}, not {file_mode:o}"


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if stat.S_ISREG(path.lstat().st_mode))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
