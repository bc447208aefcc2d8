"""Tar archives, read member by member from whatever can be read forwards, and written with no trace of when and where.

A member is found by its name and handed over as bytes: nothing is ever put where an archive says (CVE-2024-45436).
What an image layout has no use for, links, devices, sparse files, is refused, and so is what has no proper end.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from syncd.errors import IntegrityError

BLOCK = 512
END = bytes(2 * BLOCK)
"""What an archive ends with (POSIX, pax, "ustar Interchange Format")."""

MAX_MEMBERS = 100_000
_MAX_EXTENSION = 64 * 1024  # bytes of a pax header, or of a long name
_MAX_DIGITS = 9  # of a record's length in one
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}


class ArchiveError(IntegrityError):
    """An archive that is cut off, broken, hostile, or none."""


class Cursor(Protocol):
    """Something that is read forwards. Both raise ``ArchiveError`` where it ends before that."""

    @property
    def position(self) -> int:
        """Bytes that were read or skipped so far."""

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""

    def skip(self, size: int) -> None:
        """Go on so many bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file: its name, its ``size``, and the ``offset`` of its bytes in the archive."""

    name: str
    size: int
    offset: int


def members(cursor: Cursor) -> Iterator[Member]:
    """The regular files, each when the cursor stands at its first byte; of those the caller reads what it wants.

    Folders are passed over. Raise ``ArchiveError`` at the first thing that is wrong.
    """
    count = 0
    override: dict[str, str] = {}
    while (block := _header(cursor, first=count == 0)) is not None:
        count += 1
        if count > MAX_MEMBERS:
            raise ArchiveError(f"it has more than {MAX_MEMBERS} members")
        info = _parsed(block)
        if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME}:
            override |= _extension(info, _content(cursor, info))
            continue
        member = _member(info, override, cursor.position)
        override = {}
        if member is None:
            continue
        yield member
        end = member.offset + member.size + -member.size % BLOCK
        if cursor.position > end:
            raise ValueError("more was read than the member has")
        cursor.skip(end - cursor.position)


def header(name: str, size: int) -> bytes:
    """What stands before a file of ``size`` bytes: always the same for the same two."""
    return _written(name, size, tarfile.REGTYPE, _FILE_MODE)


def folder_header(name: str) -> bytes:
    """A folder, for programs that do not make those that files lie in."""
    return _written(name, 0, tarfile.DIRTYPE, _FOLDER_MODE)


def padding(size: int) -> bytes:
    """What stands behind a file of ``size`` bytes."""
    return bytes(-size % BLOCK)


def _written(name: str, size: int, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, mode
    # What tarfile leaves unset is 0 or empty: time, user, group, device. 8 GiB and more take a pax header.
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _header(cursor: Cursor, *, first: bool) -> bytes | None:
    """The next one; None at the end."""
    block = cursor.read(BLOCK)
    if first:
        for magic, program in _PACKED.items():
            if block.startswith(magic):
                raise ArchiveError(
                    f"it is packed with {program}", hint=f"unpack it on the way: '{program} -dc FILE | syncd import -'"
                )
    return block if any(block) else None


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise ArchiveError(
            f"it is no tar archive, or it is damaged: {error}", hint="'syncd export' makes one that can be imported"
        ) from error
    if info.size < 0:
        raise ArchiveError(f"{info.name[:100]!r} has an impossible size: {info.size}")
    return info


def _content(cursor: Cursor, info: tarfile.TarInfo) -> bytes:
    if info.size > _MAX_EXTENSION:
        raise ArchiveError(f"a header of it has {info.size} bytes, more than {_MAX_EXTENSION}")
    content = cursor.read(info.size)
    cursor.skip(-info.size % BLOCK)
    return content


def _extension(info: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    """What a header that belongs to the next member says of it."""
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found = _records(content)
    if any(key.startswith("GNU.sparse.") for key in found):
        raise ArchiveError("it has a sparse file, which an image layout has no use for")
    if info.type == tarfile.XGLTYPE:
        if {"path", "size"} & found.keys():
            raise ArchiveError("a global header of it names files, or gives them a size")
        return {}
    return {key: value for key, value in found.items() if key in {"path", "size"}}


def _records(content: bytes) -> dict[str, str]:
    """The records of a pax header: ``LENGTH KEY=VALUE`` and a newline, the length that of the whole record."""
    found: dict[str, str] = {}
    at = 0
    while at < len(content) and content[at]:
        space = content.find(b" ", at, at + _MAX_DIGITS + 1)
        length = content[at : max(space, at)]
        end = at + int(length) if length.isdigit() else 0
        if not space < end <= len(content):
            raise ArchiveError("a pax header of it is damaged")
        key, equals, value = content[space + 1 : end].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ArchiveError("a pax header of it is damaged")
        found[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        at = end
    return found


def _member(info: tarfile.TarInfo, override: dict[str, str], offset: int) -> Member | None:
    """None for a folder."""
    name = override.get("path", info.name)
    if info.type == tarfile.DIRTYPE or (info.type in _FILES and name.endswith("/")):
        if info.size or "size" in override:
            raise ArchiveError(f"{name[:100]!r} is a folder that has a size")
        return None
    if info.type not in _FILES:
        kind = _KINDS.get(info.type, f"a member of type {info.type!r}")
        raise ArchiveError(f"{name[:100]!r} is {kind}, which an image layout has no use for")
    size = override.get("size", str(info.size))
    if not (size.isascii() and size.isdigit() and len(size) < 20):  # noqa: PLR2004 - digits of 2**63
        raise ArchiveError(f"{name[:100]!r} has an impossible size: {size[:40]}")
    return Member(name, int(size), offset)
