"""What an Ollama server does to its model store (``server/images.go``, ``server/fixblobs.go``, ``manifest/*.go``)."""

import contextlib
import hashlib
import json
import os
import random
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.standin.names import InvalidName, Name, existing

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_DEPTH = 4  # host, namespace, model, tag


class BadManifest(ValueError):  # noqa: N818 - what the file is
    """A file where a manifest should be."""


class BadDigest(ValueError):  # noqa: N818 - what it is
    """Not the digest of a blob."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it lay in its file. ``digest``: bare hex; ``modified``: the file's mtime, ns since the epoch."""

    name: Name
    digest: str
    modified: int
    config: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]

    @property
    def size(self) -> int:
        return sum(int(part.get("size", 0)) for part in (self.config, *self.layers))

    @property
    def digests(self) -> list[str]:
        """``sha256:…`` of the layers and the config."""
        return [part["digest"] for part in (*self.layers, self.config) if part.get("digest")]


class Store:
    """A models folder. ``chance`` stands for the random order of Go's maps."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self._root = root
        self._chance = chance

    # Paths: asking for one makes its folder, as manifest/paths.go does

    @property
    def manifests_folder(self) -> Path:
        return _made(self._root / "manifests")

    @property
    def blobs_folder(self) -> Path:
        return _made(self._root / "blobs")

    def blob(self, digest: str) -> Path:
        """Where the blob ``sha256:…`` lies. Raise ``BadDigest``."""
        if not _DIGEST.fullmatch(digest):
            raise BadDigest("invalid digest format")
        return self.blobs_folder / digest.replace(":", "-")

    def manifest_path(self, name: Name) -> Path:
        return self.manifests_folder.joinpath(*name.parts)

    # Reading

    def manifest(self, name: Name) -> Manifest:
        """Raise ``OSError``, or ``BadManifest`` if it does not parse."""
        path = self.manifest_path(name)
        with path.open("rb") as file:
            modified = os.fstat(file.fileno()).st_mtime_ns
            raw = file.read()
        try:
            # Go stops at the end of the first value, whatever follows.
            found, _ = json.JSONDecoder().raw_decode(raw.decode().lstrip())
            layers = tuple(dict(layer) for layer in found.get("layers") or ())
            config = dict(found.get("config") or {})
        except (ValueError, TypeError, AttributeError) as error:
            raise BadManifest(f"{name.shortest}: {error}") from error
        return Manifest(name, hashlib.sha256(raw).hexdigest(), modified, config, layers)

    def manifests(self, *, continue_on_error: bool) -> dict[Name, Manifest]:
        """All that lies at ``manifests/*/*/*/*``.

        Raise ``OSError`` if one of them cannot be followed or is gone before it is looked at: the whole listing fails.
        Unless ``continue_on_error``, raise ``BadManifest`` for a name or a file that does not parse.
        """
        found = {}
        for path in list(_glob(self.manifests_folder, _DEPTH)):
            if stat.S_ISDIR(path.stat().st_mode):
                continue
            try:
                name = Name.of(path.relative_to(self.manifests_folder).parts)
                found[name] = self.manifest(name)
            except (InvalidName, BadManifest, OSError) as error:
                if not continue_on_error:
                    raise BadManifest(f"{path}: {error}") from error
        return found

    def existing(self, name: Name) -> Name:
        """``name`` as the stored ones spell it; raise ``OSError`` where the listing fails."""
        return existing(name, self.manifests(continue_on_error=True), self._chance)

    # Changing

    def start(self, *, prune: bool, grace: float) -> None:
        """What a server does before it listens. Raise ``OSError`` where it would not start.

        ``grace``: seconds for which an unreferenced blob is left alone.
        """
        _fix(self.blobs_folder)
        if not prune:
            return
        try:
            self.manifests(continue_on_error=False)
        except (BadManifest, OSError):
            return  # it warns of corrupt manifests, and prunes nothing
        self._prune_layers(grace)
        prune_folder(self.manifests_folder)

    def delete(self, name: Name) -> None:
        """Remove a model, and the blobs that no other one names. Raise ``OSError`` or ``BadManifest``."""
        manifest = self.manifest(name)
        self.manifest_path(name).unlink()
        prune_folder(self.manifests_folder)
        used = {digest for other in self.manifests(continue_on_error=True).values() for digest in other.digests}
        for digest in manifest.digests:
            if digest not in used:
                self.blob(digest).unlink(missing_ok=True)

    def delete_unused(self, digests: Iterable[str]) -> None:
        """Remove those blobs of ``sha256:…`` that no manifest names. A blob that cannot be removed is left."""
        stored = self.manifests(continue_on_error=True).values()
        used = {digest for manifest in stored for digest in manifest.digests}
        for digest in set(digests) - used:
            with contextlib.suppress(OSError, BadDigest):
                self.blob(digest).unlink()

    def write_manifest(self, name: Name, raw: bytes) -> None:
        """In place, over whatever is there: a reader may see half of it."""
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def _prune_layers(self, grace: float) -> None:
        unused = []
        for entry in list(os.scandir(self.blobs_folder)):
            if entry.is_dir(follow_symlinks=False):
                continue
            # Its age by the wall clock: what a file's mtime is measured in.
            try:
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            except OSError:
                continue  # gone meanwhile
            if age < grace:
                continue
            digest = entry.name.replace("-", ":")
            if _DIGEST.fullmatch(digest):
                unused.append(digest)
            else:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
        with contextlib.suppress(OSError):
            self.delete_unused(unused)


def prune_folder(path: Path) -> None:
    """Remove empty folders, ``path`` itself too if nothing is left in it (``PruneDirectory``)."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        return
    for entry in os.listdir(path):  # noqa: PTH208 - names: the folder changes on the way
        prune_folder(path / entry)
    if not os.listdir(path):  # noqa: PTH208 - likewise
        path.rmdir()


def _made(path: Path) -> Path:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def _glob(folder: Path, depth: int) -> Iterator[Path]:
    """As Go's ``filepath.Glob``: dotfiles too, folders that cannot be read passed over."""
    try:
        entries = sorted(os.listdir(folder))  # noqa: PTH208 - names are all that Go's Glob takes here
    except OSError:
        return
    for entry in entries:
        if depth == 1:
            yield folder / entry
        else:
            yield from _glob(folder / entry, depth - 1)


def _fix(folder: Path) -> None:
    """``sha256:x`` becomes ``sha256-x``, in subfolders too; the first error ends the server (``fixBlobs``)."""
    for entry in sorted(os.listdir(folder)):  # noqa: PTH208 - names: the folder changes on the way
        path = folder / entry
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        if entry.startswith("sha256:"):
            path = path.rename(folder / entry.replace(":", "-", 1))
        if is_folder:
            _fix(path)
