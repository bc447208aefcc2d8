"""What was published under each name: the manifests' very bytes, with the time and the origin of each publication."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from syncd.errors import InvalidManifestError, InvalidNameError, StoreError
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.files import Folder

_MAX_BYTES = 2 * MAX_MANIFEST_BYTES  # base64 adds a third
_TICK = 1e-3  # seconds
_MOST_EARLIER = 200  # publications of one manifest that are kept beside its latest


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A publication of the same manifest before the latest one."""

    time: float
    origin: str
    chosen: bool = False


class HistoryEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A manifest that was published: when (seconds since the epoch) last, from where, and its very bytes.

    ``earlier``: the latest first.
    """

    time: float
    origin: str
    manifest: bytes
    chosen: bool = False
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """A manifest that was published: when (seconds since the epoch), and from where.

    ``chosen``: somebody asked for this very version, and it says nothing of what the registry's tag held.
    """

    manifest: Manifest
    time: float
    origin: str
    chosen: bool = False


class Past:
    """What was published under one name, read when it is asked for: until the next name is, and no longer.

    ``path``: the parts of the name.
    """

    def __init__(self, path: tuple[str, ...], folder: Folder) -> None:
        self.path = path
        self._folder = folder
        self._files = frozenset(entry.name for entry in folder.list() if entry.is_file)

    def __len__(self) -> int:
        """How many versions there are."""
        return len(self._files)

    def __contains__(self, digest: Digest) -> bool:
        """Whether this version is one of them."""
        return layout.history_file(digest) in self._files

    def find(self, digest: Digest) -> Manifest | None:
        """The version of this digest, if it was published."""
        file = layout.history_file(digest)
        found = _read(self._folder, file) if file in self._files else ()
        return found[0].manifest if found else None

    def publications(self) -> tuple[Publication, ...]:
        """Each version once, the one that was published last first."""
        return _latest_first(found[0] for file in self._files if (found := _read(self._folder, file)))


def moved_back(publications: Sequence[Publication], digest: Digest) -> Publication | None:
    """The earlier publication to which a registry's tag has moved back, now that it holds ``digest`` (pure).

    ``publications``: the latest first. None: it has not moved, or on to what was never there.
    """
    followed = [one for one in publications if not one.chosen]
    if not followed or followed[0].manifest.digest == digest:
        return None
    return next((one for one in followed if one.manifest.digest == digest), None)


def versions(publications: Iterable[Publication]) -> tuple[Publication, ...]:
    """Of each version the first that comes (pure)."""
    found: dict[Digest, Publication] = {}
    for one in publications:
        found.setdefault(one.manifest.digest, one)
    return tuple(found.values())


class History:
    """``history/``. Whoever writes about a name holds its lock."""

    def __init__(self, folder: Folder, staging: Folder) -> None:
        self._folder = folder
        self._staging = staging

    def of(self, name: ModelName) -> tuple[Publication, ...]:
        """Each version that was published under exactly this name, once, the one that was published last first.

        An entry that cannot be read is left out.
        """
        return _latest_first(group[0] for group in self._groups(name))

    def publications(self, name: ModelName) -> tuple[Publication, ...]:
        """Every publication under exactly this name, the latest first: a version may be there more than once."""
        return _latest_first(one for group in self._groups(name) for one in group)

    def spelling(self, name: ModelName) -> ModelName | None:
        """The name of which there is a history and that Ollama takes for this one: exactly it, else in another case."""
        if self._groups(name):
            return name
        found: list[str] = []
        with ExitStack() as stack:
            folder = self._folder
            for part in _parts(name):
                spelled = [entry.name for entry in folder.list() if entry.name.casefold() == part.casefold()]
                below = folder.sub(min(spelled)) if spelled else None
                if below is None:
                    return None
                found.append(min(spelled))
                folder = stack.enter_context(below)
        try:
            return ModelName(*found)
        except InvalidNameError:
            return None

    def add(self, name: ModelName, manifest: Manifest, origin: str, now: float, *, chosen: bool = False) -> None:
        """Note, durably, that this manifest was published ``now`` (seconds since the epoch), from ``origin``.

        It is the latest entry from then on, whatever the clock did meanwhile. ``chosen``: as ``Publication`` has it.
        """
        groups = self._groups(name)
        before = next((group for group in groups if group[0].manifest.digest == manifest.digest), ())
        time = max((group[0].time + _TICK for group in groups), default=now)
        earlier = tuple(Earlier(one.time, one.origin, one.chosen) for one in before[:_MOST_EARLIER])
        entry = HistoryEntry(max(now, time), origin, manifest.raw, chosen, earlier)
        with ExitStack() as stack:
            folder = self._folder
            for part in _parts(name):
                folder = stack.enter_context(folder.make_sub(part, layout.OWN_FOLDER_MODE))
            folder.write_atomically(
                layout.history_file(manifest.digest),
                msgspec.json.encode(entry),
                mode=layout.OWN_FILE_MODE,
                staging=self._staging,
            )

    def all(self) -> Iterator[Past]:
        """Of every name that has a history."""
        for parts, folder in _walk(self._folder, (), depth=4):
            yield Past(parts, folder)

    def _groups(self, name: ModelName) -> list[tuple[Publication, ...]]:
        """The publications of each manifest, the latest first."""
        with ExitStack() as stack:
            folder: Folder | None = self._folder
            for part in _parts(name):
                folder = folder and folder.sub(part)
                if folder is None:
                    return []
                stack.enter_context(folder)
            return [group for entry in folder.list() if (group := _read(folder, entry.name))] if folder else []


def _walk(folder: Folder, parts: tuple[str, ...], *, depth: int) -> Iterator[tuple[tuple[str, ...], Folder]]:
    """The folders so many levels down, each open until the next one is asked for."""
    if not depth:
        yield parts, folder
        return
    for entry in folder.list():
        below = folder.sub(entry.name) if entry.is_folder else None
        if below is not None:
            with below:
                yield from _walk(below, (*parts, entry.name), depth=depth - 1)


def _latest_first(publications: Iterable[Publication]) -> tuple[Publication, ...]:
    return tuple(sorted(publications, key=lambda one: one.time, reverse=True))


def _parts(name: ModelName) -> tuple[str, ...]:
    folders, tag = layout.manifest_parts(name)
    return (*folders, tag)


def _read(folder: Folder, file: str) -> tuple[Publication, ...]:
    try:
        content = folder.read_file(file, _MAX_BYTES)
        if content is None:
            return ()
        entry = msgspec.json.decode(content, type=HistoryEntry)
        manifest = Manifest.parse(entry.manifest)
    except (StoreError, InvalidManifestError, msgspec.MsgspecError):
        return ()  # nothing can be restored from it: as good as not there
    if layout.history_file(manifest.digest) != file:
        return ()
    latest = Publication(manifest, entry.time, entry.origin, entry.chosen)
    return (latest, *(Publication(manifest, one.time, one.origin, one.chosen) for one in entry.earlier))
