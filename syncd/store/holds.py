"""Tags that somebody holds at a version, as a rollback does, until they are released: on disk, a small file for each.

A hold carries the manifest itself: what it says is so though the history be lost and no registry know the digest.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from syncd.errors import IntegrityError, InvalidManifestError, InvalidNameError, SyncdError
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.state import StateFiles

_PREFIX = "hold-"


@dataclass(frozen=True, slots=True)
class Hold:
    """``name`` is to be this manifest. ``at``: since when, in seconds since the epoch; ``by``: in words, who wants it.

    ``origin``: where the manifest came from.
    """

    name: ModelName
    manifest: Manifest
    at: float
    by: str
    origin: str


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: tuple[str, str, str, str]
    manifest: bytes
    at: float
    by: str
    origin: str


class Holds:
    """Those of one store. Methods block for a moment."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def of(self, name: ModelName) -> Hold | None:
        """What the tag is held at, if it is; in whatever case. Raise ``IntegrityError`` where that cannot be read."""
        return self._read(_file(name))

    def all(self, on_unreadable: Callable[[SyncdError], None] | None = None) -> tuple[Hold, ...]:
        """Every one that can be read, by name; ``on_unreadable`` hears of the others. Raise ``SyncdError``."""
        found = []
        for file in self._files.names():
            if not file.startswith(_PREFIX):
                continue
            try:
                hold = self._read(file)
            except SyncdError as error:
                if on_unreadable is not None:
                    on_unreadable(error)
            else:
                found += [] if hold is None else [hold]
        return tuple(sorted(found, key=lambda one: one.name))

    def put(self, hold: Hold) -> None:
        """Hold it from now on, durably. Raise ``SyncdError``."""
        note = _Note(hold.name.parts, hold.manifest.raw, hold.at, hold.by, hold.origin)
        self._files.write(_file(hold.name), msgspec.json.encode(note))

    def content(self, name: ModelName) -> bytes | None:
        """What is written of the tag, readable or not; None: nothing is. For ``put_back``."""
        return self._files.read(_file(name))

    def put_back(self, name: ModelName, content: bytes | None) -> None:
        """Have the tag held as it was when ``content`` was written of it, durably. Raise ``SyncdError``."""
        if content is None:
            self.drop(name)
        elif content != self.content(name):
            self._files.write(_file(name), content)

    def drop(self, name: ModelName) -> None:
        """Nobody holds it any more."""
        self._files.remove(_file(name))

    def _read(self, file: str) -> Hold | None:
        content = self._files.read(file)
        if content is None:
            return None
        try:
            note = msgspec.json.decode(content, type=_Note)
            return Hold(ModelName(*note.name), Manifest.parse(note.manifest), note.at, note.by, note.origin)
        except (msgspec.MsgspecError, InvalidManifestError, InvalidNameError) as error:
            raise IntegrityError(
                f"what a model is pinned to cannot be read: .syncd/state/{file}: {error}",
                hint="'syncd unpin NAME' releases that model, 'syncd rollback NAME' pins it anew",
            ) from error


def _file(name: ModelName) -> str:
    return f"{_PREFIX}{hashlib.sha256(name.folded.encode()).hexdigest()[:32]}.json"
