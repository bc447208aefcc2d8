"""The models of a store: manifests under their tags, published and taken away so that no reader ever sees a step of it.

A folder that is empty even for a moment stops an Ollama server on a read-only mount when it starts, so new folders are
renamed in with the manifest inside, and the ones that become empty are renamed out with it.
"""

import errno
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from syncd.errors import (
    BusyError,
    IntegrityError,
    InvalidManifestError,
    InvalidNameError,
    NotFoundError,
    StoreError,
    SyncdError,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.blobs import BlobStore
from syncd.store.files import Entry, Folder, new_token
from syncd.store.history import History, Past, Publication
from syncd.store.locks import Lock

_ATTEMPTS = 20


class TagMovedError(BusyError):
    """Somebody else published or removed this tag since it was looked at: resolve it again."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A published model. ``modified``: when, in seconds since the epoch."""

    name: ModelName
    manifest: Manifest
    modified: float


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """What lies where Ollama looks for a manifest, but is none. ``path``: below ``manifests/``."""

    path: str
    name: ModelName | None
    problem: str


Listing = list[StoredModel | BrokenModel]


class ModelStore:
    """``manifests/`` and ``history/``."""

    def __init__(
        self, manifests: Folder, history: Folder, staging: Folder, blobs: BlobStore, revive: Callable[[], object]
    ) -> None:
        """``revive`` makes ``manifests`` again where somebody has removed it (``Store.revive``)."""
        self._manifests = manifests
        self._history = History(history, staging)
        self._staging = staging
        self._blobs = blobs
        self._revive = revive

    def read(self, name: ModelName) -> Manifest | None:
        """What is published under exactly this name; None if nothing is. ``IntegrityError`` if it is no manifest."""
        raw = self._raw(name)
        try:
            return None if raw is None else Manifest.parse(raw)
        except InvalidManifestError as error:
            raise IntegrityError(
                f"{name}: what is published is no manifest: {error.message}",
                hint=f"'syncd rm {name}' removes it; 'syncd pull {name}' replaces it",
            ) from error

    def tag_digest(self, name: ModelName) -> Digest | None:
        """The digest of whatever bytes lie under this name, a manifest or not: what ``publish`` expects."""
        raw = self._raw(name)
        return None if raw is None else Digest.of(raw)

    def find(self, name: ModelName) -> ModelName | None:
        """The stored name that Ollama takes for this one: exactly it, else one that differs in case only."""
        folders, tag = layout.manifest_parts(name)
        with ExitStack() as stack:
            folder = self._descend(stack, folders)
            if folder is not None and folder.stat(tag) is not None:
                return name
        return next((stored for stored in self.names() if stored.folded == name.folded), None)

    def names(self) -> Iterator[ModelName]:
        """The names of all published models, their manifests unread."""
        for host, namespace, model, folder in self._model_folders(broken=[]):
            for entry in folder.list():
                if entry.is_file:
                    with suppress(InvalidNameError):  # Ollama finds nothing under it either
                        yield ModelName(host, namespace, model, entry.name)

    def list(self) -> Listing:
        """Everything that Ollama would take for a model, in order of its path; what is broken is said to be."""
        found: Listing = []
        for host, namespace, model, folder in self._model_folders(found):
            found.extend(
                one
                for entry in folder.list()
                if not entry.is_folder
                and (one := self._load(folder, (host, namespace, model, entry.name), entry)) is not None
            )
        return sorted(found, key=lambda one: one.path if isinstance(one, BrokenModel) else "/".join(one.name.parts))

    def publish(self, name: ModelName, manifest: Manifest, *, expected: Digest | None, held: Lock) -> None:
        """Let the tag hold this manifest, durably, in one rename. ``held``: the references lock, shared.

        The caller holds the name's lock and has every blob in place. Raise ``TagMovedError`` if the tag does not hold
        ``expected`` (None: nothing) any more. The blobs that the old manifest alone named stay an hour at least.
        """
        if not held.held:
            raise ValueError("a manifest is published under the references lock")
        folders, tag = layout.manifest_parts(name)
        self._refresh_freed(name, manifest)
        for _ in range(_ATTEMPTS):
            with ExitStack() as stack:
                parent, missing = self._deepest(stack, folders)
                self._require(name, expected)
                if self._rename_in(parent, (*missing, tag), manifest):
                    parent.fsync()
                    return
            # An Ollama that prunes an empty store removes manifests/ itself (``PruneDirectory``).
            self._revive()
        raise BusyError(f"{name}: its folder is made and removed by somebody else all the time", hint="run it again")

    def unpublish(self, name: ModelName, *, held: Lock) -> Manifest | None:
        """Take the tag away, with the folders that become empty, in one rename. ``NotFoundError`` if it is not there.

        ``held``: the references lock, exclusive, since a manifest which another process publishes into a folder on its
        way out would vanish with it. The result is what was published, None if that was no manifest.
        """
        if not held.held:
            raise ValueError("a manifest is taken away under the references lock")
        try:
            raw = self._raw(name)
        except SyncdError:
            raw = b""  # a link, a FIFO, unreadable: whatever lies there is what is to go
        if raw is None:
            raise NotFoundError(f"{name} is not in {self._manifests.path}")
        self._refresh_freed(name, None)
        folders, tag = layout.manifest_parts(name)
        temporary = layout.temporary_file(new_token())
        self._rename_out((*folders, tag), self._staging, temporary)
        self._staging.remove_tree(temporary)
        try:
            return Manifest.parse(raw)
        except InvalidManifestError:
            return None

    def set_aside(self, path: tuple[str, ...], to: Folder, to_name: str, *, held: Lock) -> bool:
        """Move what lies at ``path`` below ``manifests/``, with the folders that become empty, to ``to_name``.

        ``held`` as for ``unpublish``; False if it is no regular file, or none is there any more. The caller holds the
        name's lock, if it has a name.
        """
        if not held.held:
            raise ValueError("a manifest is taken away under the references lock")
        if not self._is_file(path):
            return False
        with suppress(InvalidNameError):  # what lies under no name frees nothing
            self._refresh_freed(ModelName(*path), None)
        self._rename_out(path, to, to_name)
        to.fsync()
        return True

    def remove_empty_folders(self) -> int:
        """Remove what an outside Ollama left empty, as it does itself when it starts; how many folders that were."""
        return _prune(self._manifests, depth=3)

    def remember(self, name: ModelName, manifest: Manifest, origin: str, now: float, *, chosen: bool = False) -> None:
        """Note in the history that this manifest was published ``now`` (seconds since the epoch), from ``origin``.

        ``chosen``: somebody asked for this very version, whatever the registry's tag holds.
        """
        self._history.add(name, manifest, origin, now, chosen=chosen)

    def history(self, name: ModelName) -> tuple[Publication, ...]:
        """The versions that syncd published under exactly this name, each once, the latest first."""
        return self._history.of(name)

    def publications(self, name: ModelName) -> tuple[Publication, ...]:
        """Every publication by syncd under exactly this name, the latest first."""
        return self._history.publications(name)

    def known(self, name: ModelName) -> ModelName:
        """The stored name that Ollama takes for this one, else such a name that has a history, else this one."""
        return self.find(name) or self._history.spelling(name) or name

    def pasts(self) -> Iterator[Past]:
        """What syncd published under every name, whether it still holds anything or not."""
        return self._history.all()

    # Steps of the above

    def _raw(self, name: ModelName) -> bytes | None:
        folders, tag = layout.manifest_parts(name)
        with ExitStack() as stack:
            folder = self._descend(stack, folders)
            return None if folder is None else folder.read_file(tag, MAX_MANIFEST_BYTES)

    def _descend(self, stack: ExitStack, folders: tuple[str, ...]) -> Folder | None:
        parent, missing = self._deepest(stack, folders)
        return None if missing else parent

    def _deepest(self, stack: ExitStack, folders: tuple[str, ...]) -> tuple[Folder, tuple[str, ...]]:
        """The deepest of these folders that is there, and the names below it that are not."""
        folder = self._manifests
        for index, part in enumerate(folders):
            below = folder.sub(part)
            if below is None:
                return folder, folders[index:]
            folder = stack.enter_context(below)
        return folder, ()

    def _entered(self, stack: ExitStack, folder: Folder, name: str) -> Folder:
        below = folder.sub(name)
        if below is None:
            raise StoreError(f"{folder.path / name} was removed by somebody else", hint="run it again")
        return stack.enter_context(below)

    def _require(self, name: ModelName, expected: Digest | None) -> None:
        there = self.tag_digest(name)
        if there != expected:
            raise TagMovedError(
                f"{name} was {'removed' if there is None else 'published'} by somebody else meanwhile",
                hint="run it again",
            )

    def _is_file(self, path: tuple[str, ...]) -> bool:
        """Whether a regular file lies at ``path`` below ``manifests/``; False where it leads through links."""
        with ExitStack() as stack:
            try:
                folder = self._descend(stack, path[:-1])
                found = folder.stat(path[-1]) if folder else None
            except SyncdError:
                return False
        return found is not None and stat.S_ISREG(found.st_mode)

    def _rename_out(self, path: tuple[str, ...], to: Folder, to_name: str) -> None:
        """Rename a tag, or the uppermost of its folders in which nothing else lies, to ``to_name``."""
        with ExitStack() as stack:
            parents = [self._manifests]
            for part in path[:-1]:
                parents.append(self._entered(stack, parents[-1], part))
            leaf = path[-1]
            while len(parents) > 1 and [entry.name for entry in parents[-1].list()] == [leaf]:
                leaf = parents.pop().path.name
            parents[-1].rename(leaf, to, to_name)
            parents[-1].fsync()

    def _refresh_freed(self, name: ModelName, successor: Manifest | None) -> None:
        try:
            old = self.read(name)
        except SyncdError:
            return  # what it named nobody knows, and whoever replaces or removes it is on the way to mend that
        if old is not None and old != successor:
            stays = {blob.digest for blob in successor.blobs} if successor else set()
            self._blobs.refresh_freed(blob for blob in old.blobs if blob.digest not in stays)

    def _rename_in(self, parent: Folder, path: tuple[str, ...], manifest: Manifest) -> bool:
        """Rename the manifest, inside the folders above it that are new, into ``parent``; False: that has changed."""
        temporary = layout.temporary_file(new_token())
        try:
            if len(path) == 1:
                self._staging.stage(manifest.raw, layout.MANIFEST_MODE, temporary)
            else:
                with self._staging.make_sub(temporary, layout.SHARED_FOLDER_MODE) as top:
                    _fill(top, path[1:], manifest)
            self._staging.rename(temporary, parent, path[0])
        except SyncdError as error:
            self._staging.remove_tree(temporary)
            # Not empty: a neighbour came first. Gone: the last neighbour left and the folder with it. Look again.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in {
                errno.ENOTEMPTY,
                errno.EEXIST,
                errno.ENOENT,
            }:
                return False
            raise
        return True

    def _model_folders(self, broken: Listing) -> Iterator[tuple[str, str, str, Folder]]:
        """Every ``host/namespace/model`` folder, open until the next one is asked for; ``broken`` gets the links."""
        for host, host_folder in _subs(self._manifests, "", broken):
            for namespace, namespace_folder in _subs(host_folder, f"{host}/", broken):
                for model, folder in _subs(namespace_folder, f"{host}/{namespace}/", broken):
                    yield host, namespace, model, folder

    def _load(self, folder: Folder, parts: tuple[str, str, str, str], entry: Entry) -> StoredModel | BrokenModel | None:
        path = "/".join(parts)
        name: ModelName | None = None
        try:
            name = ModelName(*parts)
            found = folder.read_dated(entry.name, MAX_MANIFEST_BYTES)
            if found is None:
                return None  # taken away since it was listed
            raw, modified = found
            return StoredModel(name, Manifest.parse(raw), modified)
        except SyncdError as error:
            return BrokenModel(path, name, error.message)


def _subs(folder: Folder, prefix: str, broken: Listing) -> Iterator[tuple[str, Folder]]:
    for entry in folder.list():
        if entry.is_file:
            continue  # Ollama looks for models four levels down only
        try:
            below = folder.sub(entry.name)
        except StoreError as error:
            broken.append(BrokenModel(prefix + entry.name, None, error.message))
            continue
        if below is not None:
            with below:
                yield entry.name, below


def _fill(folder: Folder, path: tuple[str, ...], manifest: Manifest) -> None:
    if len(path) == 1:
        folder.stage(manifest.raw, layout.MANIFEST_MODE, path[0])
    else:
        with folder.make_sub(path[0], layout.SHARED_FOLDER_MODE) as below:
            _fill(below, path[1:], manifest)
    folder.fsync()


def _prune(folder: Folder, depth: int) -> int:
    removed = 0
    for entry in folder.list():
        below = folder.sub(entry.name) if entry.is_folder and depth else None
        if below is None:
            continue
        with below:
            removed += _prune(below, depth - 1)
        if folder.rmdir(entry.name):
            folder.fsync()
            removed += 1
    return removed
