"""The manifests of another program's store: found, read, and taken away, through no link."""

import stat
from collections.abc import Iterator
from contextlib import ExitStack

from syncd.errors import SyncdError
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store.files import Folder
from syncd.store.source_scan import SourceManifest


class SourceManifests:
    """What lies below ``manifests/``; a source may have no such folder. It is not closed here."""

    def __init__(self, folder: Folder | None) -> None:
        self.folder = folder

    def paths(self) -> Iterator[tuple[str, ...]]:
        """Every tag, and every link or broken folder above the tags."""
        if self.folder is not None:
            yield from _walk(self.folder, ())

    def load(self, path: tuple[str, ...]) -> SourceManifest:
        """The manifest at ``path``, or why it is none."""
        below = "/".join(path)
        name: ModelName | None = None
        try:
            if len(path) != 4:  # noqa: PLR2004 - host, namespace, model, tag
                return SourceManifest(below, None, None, "no folder, but a link or a file")
            name = ModelName(*path)
            raw = self.read(path)
            manifest = Manifest.parse(raw) if raw is not None else None
        except SyncdError as error:
            return SourceManifest(below, name, None, error.message)
        if manifest is None:
            return SourceManifest(below, name, None, "it was removed while it was being read")
        return SourceManifest(below, name, manifest)

    def read(self, path: tuple[str, ...]) -> bytes | None:
        """The bytes of the file at ``path``; None: there is none. Raise ``SyncdError`` where it leads through links."""
        with ExitStack() as stack:
            folder = self.folder and open_below(stack, self.folder, path[:-1])
            return folder.read_file(path[-1], MAX_MANIFEST_BYTES) if folder else None

    def is_file(self, path: str) -> bool:
        """Whether a regular file lies at ``path`` below ``manifests/``; False where it leads through links."""
        parts = tuple(path.split("/"))
        with ExitStack() as stack:
            try:
                folder = self.folder and open_below(stack, self.folder, parts[:-1])
                found = folder.stat(parts[-1]) if folder else None
            except SyncdError:
                return False
        return found is not None and stat.S_ISREG(found.st_mode)

    def remove(self, path: tuple[str, ...]) -> None:
        """Remove a tag, and the folders that it leaves empty, durably."""
        if self.folder is None:
            return
        with ExitStack() as stack:
            folders = [self.folder]
            for part in path[:-1]:
                below = folders[-1].sub(part)
                if below is None:
                    return
                folders.append(stack.enter_context(below))
            folders[-1].unlink(path[-1], missing_ok=True)
            folders[-1].fsync()
            while len(folders) > 1:
                name = folders.pop().path.name
                if not folders[-1].rmdir(name):
                    return
                folders[-1].fsync()


def open_below(stack: ExitStack, folder: Folder, path: tuple[str, ...]) -> Folder | None:
    """The folder at ``path`` below ``folder``, which ``stack`` closes; None: there is none. No link is followed."""
    for part in path:
        below = folder.sub(part)
        if below is None:
            return None
        folder = stack.enter_context(below)
    return folder


def _walk(folder: Folder, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for entry in folder.list():
        here = (*path, entry.name)
        if len(here) == 4:  # noqa: PLR2004 - host, namespace, model, tag
            if not entry.is_folder:
                yield here
        elif entry.is_folder:
            try:
                below = folder.sub(entry.name)
            except SyncdError:
                yield here
                continue
            if below is not None:
                with below:
                    yield from _walk(below, here)
        elif not entry.is_file:
            yield here  # Ollama follows links here, and finds models behind them
