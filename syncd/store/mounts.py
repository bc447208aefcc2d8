"""Which file system a path lies on, whether other hosts share it, and which mount an open file lies on (proc(5))."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
_NETWORK = frozenset(
    {
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)
_LOCAL_FUSE = frozenset(
    {
        *("fuse.bindfs", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.unionfs", "fuse.zfs-fuse"),
        *("fuse.exfat", "fuse.lxcfs"),
    }
)


def file_system_of(path: Path, mountinfo: Iterable[str]) -> str | None:
    """The type of the file system that ``path`` (absolute, resolved) lies on; None if no mount covers it."""
    best, kind = -1, None
    for line in mountinfo:
        mount, separator, rest = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the fifth field is the mount point
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split(" ")[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether other hosts may share this kind of file system. FUSE counts as such unless it is known to be local."""
    return kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def mount_of(fd: int) -> tuple[int, int]:
    """The device and the mount that an open file lies on: link(2) works within one mount only (proc(5), fdinfo).

    The mount is -1 where the kernel does not say.
    """
    device, mount = os.fstat(fd).st_dev, -1
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8").splitlines():
            if line.startswith("mnt_id:"):
                mount = int(line.partition(":")[2])
    return device, mount
