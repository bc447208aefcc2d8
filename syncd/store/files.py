"""Folders by descriptor, and the only fsync, rename and link of syncd. No symbolic link is followed below a store.

Every ``OSError`` leaves this module as a ``SyncdError`` that names the path and has its cause chained (``os_errors``).
A failed fsync is never tried again: the kernel has marked the pages clean by then, and a second one would report
success.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from syncd.errors import StoreError, SyncdError
from syncd.store import layout
from syncd.store.descriptors import read_all, same_file, write_all
from syncd.store.os_errors import NotAFileError, error_of, error_of_file, translated

_READ = os.O_RDONLY
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO planted in the store must not hang whoever opens it
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder, and what it is; a symbolic link is neither file nor folder."""

    name: str
    is_folder: bool
    is_file: bool


class Folder:
    """An open folder: whatever happens to its path, its methods work on this very folder."""

    __slots__ = ("_path", "fd")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self._path = path  # a Path is made for messages only: making one costs as much as opening the folder

    @property
    def path(self) -> Path:
        """Where it was opened."""
        return Path(self._path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder outside of any store's control; only its last component must be no link."""
        with translated(path):
            return cls(os.open(path, _FOLDER), str(path))

    def close(self) -> None:
        """Give the descriptor back; calling it again does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sub(self, name: str) -> "Folder | None":
        """The folder ``name`` in here; None if there is none; ``StoreError`` if a link or a file lies there."""
        try:
            return Folder(os.open(name, _FOLDER, dir_fd=self.fd), f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                found = self.stat(name)
                what = "a symbolic link" if found and stat.S_ISLNK(found.st_mode) else "a file"
                raise StoreError(
                    f"{self.path / name}: {what} where a folder should be", hint="put a real folder in its place"
                ) from error
            raise error_of(error, self.path / name) from error

    def make_sub(self, name: str, mode: int) -> "Folder":
        """The folder ``name`` in here, made with exactly ``mode`` if there is none."""
        try:
            os.mkdir(name, mode, dir_fd=self.fd)
        except FileExistsError:
            made = False
        except OSError as error:
            raise error_of(error, self.path / name) from error
        else:
            made = True
        folder = self.sub(name)
        if folder is None:
            raise StoreError(f"{self.path / name} was removed by somebody else")
        if made:
            folder.chmod(mode)
        return folder

    def chmod(self, mode: int) -> None:
        """Give the folder itself this mode, whatever the umask."""
        with translated(self.path):
            os.fchmod(self.fd, mode)

    def set_mode(self, name: str, inode: tuple[int, int] | None, mode: int) -> bool:
        """Give ``name`` this mode, though its own forbids even its owner to open it; no link is followed.

        False: there is none, or it is not the file ``inode`` (device and number; None: any).
        """
        with translated(self.path / name):
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            except FileNotFoundError:
                return False
            try:
                found = os.fstat(fd)
                if stat.S_ISLNK(found.st_mode) or inode not in {None, (found.st_dev, found.st_ino)}:
                    return False
                os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101 - fchmod(2) refuses O_PATH
            finally:
                os.close(fd)
        return True

    def open_file(self, name: str, flags: int = _READ) -> int | None:
        """A descriptor of the regular file ``name``; None: there is none; ``StoreError``: something else lies there."""
        opened = self._open(name, flags)
        return None if opened is None else opened[0]

    def _open(self, name: str, flags: int) -> tuple[int, os.stat_result] | None:
        try:
            fd = os.open(name, flags | _SAFE, layout.OWN_FILE_MODE, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise error_of_file(error, self.path / name) from error
        try:
            found = os.fstat(fd)
        except OSError as error:
            os.close(fd)
            raise error_of(error, self.path / name) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise NotAFileError(
                f"{self.path / name} is no regular file", hint="remove it: nothing of syncd's lies there"
            )
        return fd, found

    def create_file(self, name: str, flags: int = os.O_EXCL) -> int:
        """A read-write descriptor of ``name``, made (0600) if it is not there; with ``O_EXCL`` it must not be there."""
        fd = self.open_file(name, os.O_RDWR | os.O_CREAT | flags)
        if fd is None:
            raise StoreError(f"{self.path} was removed by somebody else")
        return fd

    def stat(self, name: str) -> os.stat_result | None:
        """What lies under ``name``, a link itself and not what it points to; None if nothing does."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise error_of(error, self.path / name) from error

    def list(self) -> list[Entry]:
        """Everything in here, in no order, without a look at the files themselves."""
        with translated(self.path):
            # Opened anew: a descriptor has one position, and two threads that read from it would each get a part.
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                with os.scandir(fd) as entries:
                    return [
                        Entry(entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False))
                        for entry in entries
                    ]
            finally:
                os.close(fd)

    def read_file(self, name: str, limit: int) -> bytes | None:
        """The content of a file of at most ``limit`` bytes; None if there is none."""
        found = self.read_dated(name, limit)
        return None if found is None else found[0]

    def read_dated(self, name: str, limit: int) -> tuple[bytes, float] | None:
        """The content likewise, and the mtime in seconds since the epoch."""
        opened = self._open(name, _READ)
        if opened is None:
            return None
        fd, found = opened
        try:
            # One read is all it takes, unless the file grows meanwhile: a list of 10,000 models counts each call.
            content = os.pread(fd, min(found.st_size, limit) + 1, 0)
            if len(content) != found.st_size or len(content) > limit:
                content = read_all(fd, limit, self.path / name)
        except OSError as error:
            raise error_of(error, self.path / name) from error
        finally:
            os.close(fd)
        return content, found.st_mtime

    def rename(self, name: str, to: "Folder", to_name: str) -> None:
        """Move ``name``, atomically; what is there is replaced."""
        with translated(to.path / to_name):
            os.rename(name, to_name, src_dir_fd=self.fd, dst_dir_fd=to.fd)

    def link(self, name: str, to: "Folder", to_name: str, *, through: "Folder") -> None:
        """Make ``to_name`` another name of the file ``name``, atomically if it is the name of another file now.

        ``through``: a folder on the same file system where a temporary name may lie.
        """
        with translated(to.path / to_name):
            try:
                self._link(name, to, to_name)
            except FileExistsError:
                mine, theirs = self.stat(name), to.stat(to_name)
                if mine and same_file(mine, theirs):
                    return
                temporary = layout.temporary_file(new_token())
                self._link(name, through, temporary)
                try:
                    through.rename(temporary, to, to_name)
                finally:
                    # rename(2) between two names of one file leaves both.
                    through.unlink(temporary, missing_ok=True)

    def _link(self, name: str, to: "Folder", to_name: str) -> None:
        os.link(name, to_name, src_dir_fd=self.fd, dst_dir_fd=to.fd, follow_symlinks=False)

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """Take a name away. A folder of that name is not touched: that is an error."""
        with translated(self.path / name), suppress(*([FileNotFoundError] if missing_ok else [])):
            os.unlink(name, dir_fd=self.fd)

    def rmdir(self, name: str) -> bool:
        """Remove an empty folder; False if it is not empty, not there, or no folder."""
        try:
            os.rmdir(name, dir_fd=self.fd)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR}:
                return False
            raise error_of(error, self.path / name) from error
        return True

    def remove_tree(self, name: str) -> None:
        """Remove ``name`` and, if it is a folder, all below it. Only for our own trees: others may race with it."""
        found = self.stat(name)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            self.unlink(name, missing_ok=True)
            return
        folder = self.sub(name)
        if folder is not None:
            with folder:
                for entry in folder.list():
                    folder.remove_tree(entry.name)
        self.rmdir(name)

    def fsync(self) -> None:
        """Make the names in here durable."""
        with translated(self.path):
            os.fsync(self.fd)

    def stage(self, content: bytes, mode: int, name: str | None = None) -> str:
        """Write a new durable file, under a temporary name unless one is given; its name. A failure leaves nothing."""
        name = name or layout.temporary_file(new_token())
        fd = self.create_file(name)
        try:
            write_all(fd, (content,), 0, self.path / name)
            fsync_file(fd, self.path / name, mode=mode)
        except BaseException:
            with suppress(SyncdError):
                self.unlink(name, missing_ok=True)
            raise
        finally:
            os.close(fd)
        return name

    def write_atomically(self, name: str, content: bytes, *, mode: int, staging: "Folder") -> None:
        """Let ``name`` hold ``content``, durably: whoever reads it, at whatever moment, sees the old or the new."""
        temporary = staging.stage(content, mode)
        try:
            staging.rename(temporary, self, name)
        except SyncdError:
            staging.unlink(temporary, missing_ok=True)
            raise
        self.fsync()


def new_token() -> str:
    """A name that nobody else picks: for uniqueness only, no decision hangs on it."""
    return secrets.token_hex(8)


def fsync_file(fd: int, path: Path, *, mode: int) -> None:
    """Give the file its mode, whatever the umask, and make it durable."""
    with translated(path):
        os.fchmod(fd, mode)
        os.fsync(fd)


def fdatasync_file(fd: int, path: Path) -> None:
    """Make the file's bytes durable."""
    with translated(path):
        os.fdatasync(fd)
