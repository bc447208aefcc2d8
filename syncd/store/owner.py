"""Whom a store belongs to, and becoming that user: one uid writes into a store, and root is it only when asked."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import NotAuthorisedError, NotFoundError
from syncd.store import layout
from syncd.store.os_errors import translated

SERVICE_USER = "syncd"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user by numbers, and by the name that users know it under."""

    uid: int
    gid: int
    name: str

    @classmethod
    def named(cls, user: str) -> "Owner":
        """The user of this name, or of this number. Raise ``NotFoundError``."""
        try:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except KeyError as error:
            raise NotFoundError(
                f"there is no user {user!r}", hint="'useradd --system USER' makes one for a service"
            ) from error
        return cls(entry.pw_uid, entry.pw_gid, entry.pw_name)


def name_of(uid: int) -> str:
    """The name of a user, for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def owner_of_store(path: Path) -> Owner | None:
    """The owner of ``.syncd``, else of Ollama's folders in there, else of the folder itself; None if there is none."""
    root = Path(os.path.realpath(path))
    for candidate in (root / layout.OWN, root / layout.MANIFESTS, root / layout.BLOBS, root):
        with translated(candidate):
            try:
                found = candidate.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
        if stat.S_ISDIR(found.st_mode):
            return Owner(found.st_uid, found.st_gid, name_of(found.st_uid))
    return None


def service_user() -> Owner | None:
    """The user whom the systemd unit runs as (``systemd/sysusers.conf``), where it is installed."""
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return Owner(entry.pw_uid, entry.pw_gid, entry.pw_name)


def may_make(path: Path) -> bool:
    """Whether this process's user could make a folder there, or write in the one that is there."""
    nearest = next((one for one in (path, *path.parents) if one.exists()), path)
    return os.access(nearest, os.W_OK | os.X_OK)


def how_to_make(owner: Owner | None, service: Owner | None, *, euid: int, may_write: bool) -> str:
    """The command that makes a store where there is none, such that whoever is to own it does.

    ``owner``: of the folder, if there is one. ``service``: as whom the daemon of this host runs, if that is known.
    """
    pull = ", and so does the first 'syncd pull NAME'"
    if euid == 0:
        if owner is not None and owner.uid != 0:
            return f"'syncd init --owner {owner.name}' makes one{pull}"
        if service is not None:
            return f"'syncd init --owner {service.name}' makes one for the daemon"
    elif not may_write:
        return f"'sudo syncd init --owner {service.name if service else 'USER'}' makes one"
    return f"'syncd init' makes one{pull}"


def decide(owner: Owner | None, *, path: Path, euid: int) -> Owner | None:
    """Whom a process with ``euid`` must become before it touches the store; None: it stays who it is.

    Raise ``NotAuthorisedError`` for a user who is neither the owner nor root.
    """
    if owner is None or owner.uid == euid:
        return None
    if euid == 0:
        return owner
    raise NotAuthorisedError(
        f"the store at {path} belongs to {owner.name}, and this is {name_of(euid)}",
        hint=f"run it as {owner.name} or with sudo; 'sudo syncd init --owner USER' takes a store over",
    )


def become(owner: Owner) -> None:
    """Turn root into ``owner`` for good: groups, then gid, then uid, real, effective and saved alike (setresuid(2))."""
    with translated(Path("/proc/self")):
        try:
            # The user's own group, not the folder's: after a chown without a group that is still root's.
            entry = pwd.getpwuid(owner.uid)
        except KeyError:
            gid = owner.gid
            os.setgroups([gid])
        else:
            gid = entry.pw_gid
            os.initgroups(entry.pw_name, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
