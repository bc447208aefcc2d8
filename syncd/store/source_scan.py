"""What a scan of another program's store found, by names and sizes alone: manifests, blobs, and what is neither."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store import layout

PARTIAL = "-partial"  # Ollama's: ``sha256-<hex>-partial``, and one ``-partial-<n>`` for the state of each range


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """A file where Ollama looks for a manifest. ``path``: below ``manifests/``; ``problem``: why it is none, if so.

    ``hosted``: a stub for a model that runs elsewhere (its config names a remote host).
    """

    path: str
    name: ModelName | None
    manifest: Manifest | None
    problem: str | None = None
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class SourceBlob:
    """A regular file that bears a blob's name. ``alone``: it has no other name."""

    file: str
    size: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Stray:
    """What lies among the blobs and is none: a partial download, a temporary file, a link. ``size``: bytes."""

    file: str
    size: int
    what: str


@dataclass(frozen=True, slots=True)
class Scan:
    """All that a source has, its blobs unread. ``mount``: what it lies on (``mount_of``)."""

    path: Path
    mount: tuple[int, int]
    manifests: tuple[SourceManifest, ...]
    blobs: Mapping[Digest, SourceBlob]
    partial: frozenset[Digest]
    strays: tuple[Stray, ...]


def digest_of(file: str) -> Digest | None:
    """The digest that a blob's file name says; None: it is no blob's name.

    Old releases of Ollama named blobs with a colon (``server/fixblobs.go``).
    """
    return layout.digest_of_file(file.replace("sha256:", "sha256-", 1))


def kind_of(mode: int, file: str) -> str:
    """What a file among the blobs is that is none, in words. ``mode``: its ``st_mode``."""
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return "no regular file"
    return "partial download" if PARTIAL in file else "no blob"
