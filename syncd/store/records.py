"""What is known of a blob: which file passed SHA-256, and the BLAKE3 of each of its chunks.

A record is one line of JSON and a second line with the first one's BLAKE3. One that cannot be read counts as none: it
can always be made again from a blob that passes SHA-256.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import blake3
import msgspec

from syncd.errors import StoreError, SyncdError
from syncd.oci.chunks import BLAKE3_BYTES, ChunkMap, chunk_count
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_BLOB_BYTES, Descriptor
from syncd.store import layout
from syncd.store.descriptors import write_all
from syncd.store.files import Folder, new_token

_CONDEMNED = -(1 << 62)  # ns; no file has this mtime, so that a condemned file is never taken for a verified one
_MAX_BYTES = 1024 + 4 * BLAKE3_BYTES * (MAX_BLOB_BYTES // (16 << 20)) // 2
_NO_HASH = bytes(BLAKE3_BYTES)  # stands for a chunk that nobody knows: no content has this hash


@dataclass(frozen=True, slots=True)
class Identity:
    """By what a file is known again without reading it. ``mtime_ns``: nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        """The identity of what was stat'ed."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def is_file(self, found: os.stat_result | None) -> bool:
        """Whether this was the same file, whatever became of its size and its mtime."""
        return found is not None and (self.device, self.inode) == (found.st_dev, found.st_ino)


@dataclass(frozen=True, slots=True)
class Record:
    """``identity`` is the file that passed SHA-256 as ``digest``; ``chunks`` is the map of its content.

    A condemned one speaks of a file that was found to be wrong. Its map is still that of the right content: with it,
    whoever mends the blob fetches what is damaged and no more.
    """

    digest: Digest
    identity: Identity
    chunks: ChunkMap

    @classmethod
    def condemned(cls, blob: Descriptor, found: os.stat_result, known: ChunkMap | None) -> Self:
        """That the file ``found`` is not ``blob``. ``known``: its map; None: nobody knows of any chunk."""
        if known is None or known.size != blob.size:
            known = ChunkMap(blob.size, (_NO_HASH,) * chunk_count(blob.size))
        return cls(blob.digest, Identity(found.st_dev, found.st_ino, blob.size, _CONDEMNED), known)

    def condemns(self, found: os.stat_result) -> bool:
        """Whether this very file was found to be wrong."""
        return self.identity.mtime_ns == _CONDEMNED and self.identity.is_file(found)

    @property
    def has_map(self) -> bool:
        """Whether it knows any chunk."""
        return any(one != _NO_HASH for one in self.chunks.hashes)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    identity: Identity
    chunks: bytes


class Records:
    """The records of one store."""

    def __init__(self, folder: Folder, staging: Folder) -> None:
        self._folder = folder
        self._staging = staging

    def get(self, digest: Digest) -> Record | None:
        """The record of this blob; None if there is none, or none that can be trusted."""
        try:
            content = self._folder.read_file(layout.blob_file(digest), _MAX_BYTES)
        except StoreError:
            return None  # too long, a link, unreadable sectors: a blob that must be hashed again
        return None if content is None else decode(content, digest)

    def put(self, record: Record) -> None:
        """Store or replace the record, atomically.

        No fsync: the blob that it speaks of is durable before it is written, and a record which a power cut loses or
        tears is found out by its checksum and costs one more hashing of the blob, never a wrong answer.
        """
        temporary = layout.temporary_file(new_token())
        fd = self._staging.create_file(temporary)
        try:
            write_all(fd, (encode(record),), 0, self._staging.path / temporary)
            self._staging.rename(temporary, self._folder, layout.blob_file(record.digest))
        except BaseException:
            with suppress(SyncdError):
                self._staging.unlink(temporary, missing_ok=True)
            raise
        finally:
            os.close(fd)

    def remove(self, digest: Digest) -> None:
        """Forget the blob, if it is known."""
        self._folder.unlink(layout.blob_file(digest), missing_ok=True)


def encode(record: Record) -> bytes:
    """The two lines of a record."""
    line = msgspec.json.encode(_Line(str(record.digest), record.identity, b"".join(record.chunks.hashes)))
    return line + b"\n" + _checksum(line) + b"\n"


def decode(content: bytes, digest: Digest) -> Record | None:
    """The record of ``digest`` that ``encode`` wrote; None for everything else."""
    line, _, rest = content.partition(b"\n")
    if rest != _checksum(line) + b"\n":
        return None
    try:
        parsed = msgspec.json.decode(line, type=_Line)
        hashes = tuple(
            parsed.chunks[start : start + BLAKE3_BYTES] for start in range(0, len(parsed.chunks), BLAKE3_BYTES)
        )
        chunks = ChunkMap(parsed.identity.size, hashes)
    except (msgspec.MsgspecError, ValueError):
        return None
    return Record(digest, parsed.identity, chunks) if parsed.digest == str(digest) else None


def _checksum(line: bytes) -> bytes:
    return blake3.blake3(line).hexdigest().encode()
