"""``syncd init``: make a store, or hand an existing one to the user that is to own it from now on."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from syncd.errors import NotAuthorisedError, StoreError
from syncd.store import layout
from syncd.store.files import Folder
from syncd.store.os_errors import translated
from syncd.store.owner import Owner, name_of
from syncd.store.root import Store, check_version, make_folders


def init(path: Path, *, owner: Owner | None, allow_network_filesystem: bool = False) -> None:
    """Make a store at ``path``, or take over the one that is there, for ``owner`` (None: whoever runs this).

    Only root can give files away. The process is still root afterwards: ``owner.become`` is the next step.
    """
    path = Path(os.path.realpath(path))
    if owner is None or owner.uid == os.geteuid() != 0:
        Store.open(path, create=True, allow_network_filesystem=allow_network_filesystem).close()
        return
    if os.geteuid() != 0:
        raise NotAuthorisedError(
            f"{name_of(os.geteuid())} cannot give the store at {path} to {owner.name}",
            hint=f"run 'sudo syncd init --owner {owner.name}'",
        )
    make_folders(path)
    with Folder.open(path) as root:
        _give(root, owner)
        for name, mode in (
            (layout.MANIFESTS, layout.SHARED_FOLDER_MODE),
            (layout.BLOBS, layout.SHARED_FOLDER_MODE),
            (layout.OWN, layout.OWN_FOLDER_MODE),
        ):
            with root.make_sub(name, mode) as made:
                if name == layout.OWN:
                    if os.fstat(made.fd).st_uid != owner.uid:
                        _distrust(made)
                    check_version(made, path, create=True)
        names = Counter(_files(root))
        for name in (layout.MANIFESTS, layout.BLOBS, layout.OWN):
            _hand_over(root, name, owner, names)


def _distrust(own: Folder) -> None:
    """Forget what another user's ``.syncd`` claims: a record that somebody planted would vouch for a false blob."""
    for name in (layout.RECORDS, layout.LEASES):
        own.remove_tree(name)


def _files(root: Folder) -> Iterator[tuple[int, int]]:
    """Device and inode of every file in the store, once for each of its names."""
    for name in (layout.MANIFESTS, layout.BLOBS, layout.OWN):
        folder = root.sub(name)
        if folder is not None:
            with folder:
                yield from _files_below(folder)


def _files_below(folder: Folder) -> Iterator[tuple[int, int]]:
    for entry in folder.list():
        below = folder.sub(entry.name) if entry.is_folder else None
        if below is not None:
            with below:
                yield from _files_below(below)
        elif (found := folder.stat(entry.name)) is not None:
            yield found.st_dev, found.st_ino


def _hand_over(parent: Folder, name: str, owner: Owner, names: Counter[tuple[int, int]]) -> None:
    folder = parent.sub(name)
    if folder is None:
        return
    with folder:
        tree = folder.path.relative_to(parent.path).parts[0]
        _hand_over_tree(folder, tree, owner, names)


def _hand_over_tree(folder: Folder, tree: str, owner: Owner, names: Counter[tuple[int, int]]) -> None:
    _give(folder, owner)
    folder.chmod(layout.OWN_FOLDER_MODE if tree == layout.OWN else layout.SHARED_FOLDER_MODE)
    for entry in folder.list():
        below = folder.sub(entry.name) if entry.is_folder else None
        if below is not None:
            with below:
                _hand_over_tree(below, tree, owner, names)
            continue
        fd = folder.open_file(entry.name)
        if fd is not None:
            try:
                _give_file(fd, folder.path / entry.name, owner, names)
                _set_mode(fd, folder.path / entry.name, tree)
            finally:
                os.close(fd)


def _give(folder: Folder, owner: Owner) -> None:
    with translated(folder.path):
        os.fchown(folder.fd, owner.uid, owner.gid)


def _give_file(fd: int, path: Path, owner: Owner, names: Counter[tuple[int, int]]) -> None:
    with translated(path):
        found = os.fstat(fd)
        # Somebody may have linked /etc/shadow to here, for root to give it away.
        if found.st_nlink > names[found.st_dev, found.st_ino]:
            raise StoreError(f"{path} has another name outside of the store", hint="remove it: copy it if it is needed")
        os.fchown(fd, owner.uid, owner.gid)


def _set_mode(fd: int, path: Path, tree: str) -> None:
    with translated(path):
        if tree == layout.MANIFESTS:
            os.fchmod(fd, layout.MANIFEST_MODE)
        elif tree == layout.BLOBS:
            os.fchmod(fd, layout.BLOB_MODE)
        elif stat.S_IMODE(os.fstat(fd).st_mode) & 0o022:
            os.fchmod(fd, layout.OWN_FILE_MODE)
