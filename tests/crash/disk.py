"""An ext4 file system on a loop device whose power can be cut."""

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAMS = ("mkfs.ext4", "mount", "umount")
_SIZE = 64 << 20
_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125  # EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32), fs/ext4/ext4.h
_WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH


def needs_power() -> None:
    """Skip, loudly, where power cannot be cut. In CI, root must be able to."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        pytest.skip("NO POWER WAS CUT: that needs root, for a loop-mounted file system")
    if missing or not Path("/dev/loop-control").exists():
        why = f"NO POWER WAS CUT: missing are {', '.join(missing) or 'loop devices'}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


class Disk:
    """A file system in a sparse file, mounted or not."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder

    @classmethod
    def make(cls, image: Path, folder: Path) -> "Disk":
        """Format it."""
        with image.open("wb") as file:
            file.truncate(_SIZE)
        _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(image))
        folder.mkdir(exist_ok=True)
        return cls(image, folder)

    def copy(self, image: Path) -> "Disk":
        """Another one with the same content, to be mounted at the same place."""
        _run("cp", "--sparse=always", str(self._image), str(image))
        return Disk(image, self.folder)

    @contextmanager
    def mounted(self, options: str = "defaults") -> Iterator[None]:
        """In use; what the log holds is replayed first. What was not written when it is left, is then."""
        _run("mount", "-t", "ext4", "-o", f"loop,{options}", str(self._image), str(self.folder))
        try:
            yield
        finally:
            self._unmount()

    def _unmount(self) -> None:
        for _ in range(50):
            done = subprocess.run(("umount", str(self.folder)), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.1)  # something on this machine looks at what is mounted
        subprocess.run(("umount", "-l", str(self.folder)), check=False)
        pytest.fail(done.stderr)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk any more, and what has not is lost."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(fd)

    def remove(self) -> None:
        self._image.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
