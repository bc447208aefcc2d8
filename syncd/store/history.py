"""What was published under each name: the manifests' very bytes, each with its time and its origin."""

from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from syncd.errors import InvalidManifestError, StoreError
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.files import Folder

_MAX_BYTES = 2 * MAX_MANIFEST_BYTES  # base64 adds a third
_TICK = 1e-3  # seconds


class HistoryEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest that was published: when (seconds since the epoch), from where, and its very bytes."""

    time: float
    origin: str
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """A manifest that was published: when (seconds since the epoch), and from where."""

    manifest: Manifest
    time: float
    origin: str


class History:
    """``history/``. Whoever writes about a name holds its lock."""

    def __init__(self, folder: Folder, staging: Folder) -> None:
        self._folder = folder
        self._staging = staging

    def of(self, name: ModelName) -> tuple[Publication, ...]:
        """What was published under exactly this name, the latest first. An entry that cannot be read is left out."""
        with ExitStack() as stack:
            folder: Folder | None = self._folder
            for part in _parts(name):
                folder = folder and folder.sub(part)
                if folder is None:
                    return ()
                stack.enter_context(folder)
            found = [_read(folder, entry.name) for entry in folder.list()] if folder else []
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.time, reverse=True))

    def add(self, name: ModelName, manifest: Manifest, origin: str, now: float) -> None:
        """Note, durably, that this manifest was published ``now`` (seconds since the epoch), from ``origin``.

        It is the latest entry from then on, whatever the clock did meanwhile.
        """
        newest = max((one.time + _TICK for one in self.of(name) if one.manifest.digest != manifest.digest), default=now)
        with ExitStack() as stack:
            folder = self._folder
            for part in _parts(name):
                folder = stack.enter_context(folder.make_sub(part, layout.OWN_FOLDER_MODE))
            folder.write_atomically(
                layout.history_file(manifest.digest),
                msgspec.json.encode(HistoryEntry(max(now, newest), origin, manifest.raw)),
                mode=layout.OWN_FILE_MODE,
                staging=self._staging,
            )


def _parts(name: ModelName) -> tuple[str, ...]:
    folders, tag = layout.manifest_parts(name)
    return (*folders, tag)


def _read(folder: Folder, file: str) -> Publication | None:
    try:
        content = folder.read_file(file, _MAX_BYTES)
        if content is None:
            return None
        entry = msgspec.json.decode(content, type=HistoryEntry)
        manifest = Manifest.parse(entry.manifest)
    except (StoreError, InvalidManifestError, msgspec.MsgspecError):
        return None
    return Publication(manifest, entry.time, entry.origin) if layout.history_file(manifest.digest) == file else None
