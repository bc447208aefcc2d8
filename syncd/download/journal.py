"""What a partial file already holds: an append-only list of chunks, each with the BLAKE3 of what was written.

A hint, never a proof: whoever resumes hashes each claimed chunk from the disk again. So nothing here is synced.

Header: magic, SHA-256 and size of the blob, chunk size, CRC-32 of these. Records: chunk index, BLAKE3, CRC-32 of both.
Whatever does not check out ends the journal: a torn tail after a crash, another blob's, another chunk size's.
"""

import errno
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import SyncdError
from syncd.oci.chunks import BLAKE3_BYTES, CHUNK_SIZE, chunk_bounds, chunk_count
from syncd.oci.manifest import Descriptor
from syncd.store.os_errors import error_of

_MAGIC = b"syncdj1\n"
_HEADER = struct.Struct(f">{len(_MAGIC)}s32sQQI")
_RECORD = struct.Struct(f">I{BLAKE3_BYTES}sI")


@dataclass(frozen=True, slots=True)
class Claims:
    """BLAKE3 by chunk index, and how many bytes of the journal say so."""

    chunks: Mapping[int, bytes]
    length: int


def header(blob: Descriptor) -> bytes:
    """What every journal of ``blob`` begins with."""
    body = struct.pack(f">{len(_MAGIC)}s32sQQ", _MAGIC, bytes.fromhex(blob.digest.hex), blob.size, CHUNK_SIZE)
    return body + struct.pack(">I", zlib.crc32(body))


def record(index: int, blake3: bytes) -> bytes:
    """The claim that chunk ``index`` is in the partial file and has this BLAKE3."""
    body = struct.pack(f">I{BLAKE3_BYTES}s", index, blake3)
    return body + struct.pack(">I", zlib.crc32(body))


def parse(content: bytes, blob: Descriptor) -> Claims:
    """The claims of a journal up to the first thing that does not check out. Of two for one chunk the later holds."""
    if content[: _HEADER.size] != header(blob):
        return Claims({}, 0)
    chunks: dict[int, bytes] = {}
    length = _HEADER.size
    while length + _RECORD.size <= len(content):
        index, blake3, _ = _RECORD.unpack_from(content, length)
        if record(index, blake3) != content[length : length + _RECORD.size] or index >= chunk_count(blob.size):
            break
        chunks[index] = blake3
        length += _RECORD.size
    return Claims(chunks, length)


def claimed_bytes(content: bytes, blob: Descriptor) -> int:
    """How much of ``blob`` its journal claims, in bytes: progress to show to those who wait for it."""
    bounds = (chunk_bounds(index, blob.size) for index in parse(content, blob).chunks)
    return sum(end - start for start, end in bounds)


class Journal:
    """An open journal, appended to by one process, the one that holds the digest's lock. Owns its descriptor."""

    def __init__(self, fd: int, blob: Descriptor) -> None:
        self._fd = fd
        self._blob = blob

    def read(self) -> Mapping[int, bytes]:
        """The claims; a journal that is another's, or torn, is cut back to what checks out. Raise ``SyncdError``."""
        try:
            claims = parse(os.pread(self._fd, os.fstat(self._fd).st_size, 0), self._blob)
            os.ftruncate(self._fd, claims.length)
            if not claims.length:
                _append(self._fd, header(self._blob))
        except OSError as error:
            raise self._failure(error) from error
        return claims.chunks

    def claim(self, index: int, blake3: bytes) -> None:
        """Chunk ``index`` has been written. Raise ``SyncdError``."""
        try:
            _append(self._fd, record(index, blake3))
        except OSError as error:
            raise self._failure(error) from error

    def clear(self) -> None:
        """Claim nothing any more. Raise ``SyncdError``."""
        try:
            os.ftruncate(self._fd, 0)
            _append(self._fd, header(self._blob))
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _failure(self, error: OSError) -> SyncdError:
        return error_of(error, Path(f"the journal of {self._blob.digest}"))


def _append(fd: int, content: bytes) -> None:
    # The descriptor is O_APPEND. A short write means a full disk; the torn record ends the journal for its next reader.
    if os.write(fd, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
