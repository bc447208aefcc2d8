"""Where a command's work is done: by this process, or by the daemon that owns the store. Commands see no difference."""

import grp
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from syncd.api.events import FaultFound, Removed, Verified, Verifying
from syncd.cli.session import Session
from syncd.daemon.places import socket_candidates
from syncd.errors import BusyError, NotAuthorisedError
from syncd.oci.name import ModelName, Reference

if TYPE_CHECKING:  # a listing waits neither for what pulls look like nor for what the daemon says of itself
    from syncd.api.catalogue import Listing, Shown
    from syncd.api.operation import Operation, Tell
    from syncd.api.v1 import Cancelled, ReloadEnded, ReloadRequest, ReloadTried, Status
    from syncd.cli.render import PullView
    from syncd.daemon.units import Rate

A = TypeVar("A", bound=msgspec.Struct)
E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pull is to do with less than the settings allow. None: what they say."""

    connections: int | None
    max_rate: "Rate | None"


class Watch(AbstractContextManager["Watch"], Protocol):
    """Shows how far a verification is, while it is entered."""

    def show(self, progress: Verifying) -> None:
        """One moment."""


class Place(Protocol):
    """Where the work is done. Everything raises ``SyncdError``, with the same exit codes here and there."""

    def operate(self, operation: "Operation[A, E]", asked: A, tell: "Tell", *, hint: str | None = None) -> E:
        """Do it; ``tell`` hears of its lines as they come. ``hint``: what whoever interrupts it is told."""

    def listing(self) -> "Listing":
        """What is visible."""

    def describe(self, name: ModelName) -> "Shown":
        """All that is known of a model."""

    def removing(self, *, dry_run: bool) -> AbstractContextManager[Callable[[ModelName], Removed]]:
        """While it is entered: what removes a model, and says what that meant."""

    def verify(self, names: Sequence[ModelName] | None, watch: Watch) -> tuple[Sequence[FaultFound], Verified]:
        """Hash the blobs of these models, or of all; ``watch`` is entered meanwhile."""

    def pull(self, references: Sequence[Reference], limits: Limits, view: "PullView") -> int:
        """Pull one after another, ``view`` entered meanwhile; the exit code of the first that failed, else 0."""

    def status(self) -> "Status":
        """Everything at a glance."""

    def reload(self, asked: "ReloadRequest", tell: Callable[["ReloadTried"], None]) -> "ReloadEnded":
        """Have the daemon's servers load models anew, or prove them; ``tell`` hears of each as it comes."""

    def cancel(self, what: str) -> "Cancelled":
        """Stop the daemon's pulls that ``what`` means: a name, with or without a pin, or a job."""


def of(session: Session) -> Place:
    """There, if a daemon listens, else here.

    Raise ``NotAuthorisedError`` for a socket that refuses this user, ``UsageError`` for a daemon of another store than
    the one asked for, ``SyncdError`` for one that does not answer.
    """
    socket = control_socket(socket_candidates(session.loaded.settings, os.environ))
    if socket is not None:
        from syncd.cli import there  # noqa: PLC0415 - without a daemon, nobody pays for its client

        if (found := there.reach(socket, session)) is not None:
            return found
    if session.fault is not None:
        raise session.fault
    from syncd.cli.here import Here  # noqa: PLC0415 - nor, with one, for the store

    return Here(session.of_its_store())


def refuse_beside_a_daemon(session: Session) -> None:
    """Raise ``BusyError`` if a daemon owns the store of ``session``."""
    socket = control_socket(socket_candidates(session.loaded.settings, os.environ))
    if socket is not None:
        from syncd.cli import remote  # noqa: PLC0415 - see of

        info = remote.greet(socket)
        if info is not None and remote.owns(info, session.choice.path):
            raise BusyError(
                f"{session.choice.path} belongs to the daemon with pid {info.pid}",
                hint="stop it first: 'systemctl stop syncd'",
            )


def control_socket(candidates: Sequence[Path]) -> Path | None:
    """The first that exists. Raise ``NotAuthorisedError`` where this user may not even look."""
    for path in candidates:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise refused(path) from error
        except OSError:
            continue  # a path that no socket can have
        return path
    return None


def refused(socket: Path) -> NotAuthorisedError:
    """The error that this user may not speak to whoever listens at ``socket``."""
    return NotAuthorisedError(
        f"{socket}: this user may not speak to the daemon",
        hint=f"run it as root, or as a user of the group {_group(socket)}; SYNCD_SOCKET names another socket",
    )


def _group(socket: Path) -> str:
    """Whose members may connect, as far as this user can see it."""
    for path in (socket, socket.parent):
        try:
            return repr(grp.getgrgid(path.stat().st_gid).gr_name)
        except (OSError, KeyError):
            continue
    return "that owns its folder"
