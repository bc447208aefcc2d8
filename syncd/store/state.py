"""What a daemon remembers of its store between its lives: small files of its own, replaced whole or not at all."""

from syncd.store import layout
from syncd.store.files import Folder

_MAX_BYTES = 16 * 1024 * 1024


class StateFiles:
    """``.syncd/state/``. Names are the caller's own, never from outside. Methods block for a moment."""

    def __init__(self, folder: Folder, staging: Folder) -> None:
        self._folder = folder
        self._staging = staging

    def names(self) -> list[str]:
        """The files that are there."""
        return [entry.name for entry in self._folder.list() if entry.is_file]

    def read(self, name: str) -> bytes | None:
        """The whole content; None if there is none. Raise ``StoreError``."""
        return self._folder.read_file(name, _MAX_BYTES)

    def mark(self, name: str) -> tuple[int, int] | None:
        """Which file it is: another one after each ``write``; None if there is none. Raise ``StoreError``."""
        found = self._folder.stat(name)
        return None if found is None else (found.st_ino, found.st_mtime_ns)

    def write(self, name: str, content: bytes) -> None:
        """Durable when it returns. Raise ``SyncdError``."""
        self._folder.write_atomically(name, content, mode=layout.OWN_FILE_MODE, staging=self._staging)

    def remove(self, name: str, mark: tuple[int, int] | None = None) -> None:
        """Gone, whether it was there or not; with ``mark``, only if it is that file still. Raise ``StoreError``."""
        if mark is not None and self.mark(name) != mark:
            return
        self._folder.unlink(name, missing_ok=True)
