"""What systemd hears of us (sd_notify(3)): datagrams to ``NOTIFY_SOCKET``; nothing where there is none."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

_MICROSECOND = 1e-6
_MAX_STATUS = 200  # characters


@dataclass(frozen=True, slots=True)
class Notifier:
    """``address``: where to send to, if anybody listens. ``watchdog``: seconds in which a ping must come, if any."""

    address: str | None
    watchdog: float | None

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Self:
        """As systemd told the process ``pid`` in its environment."""
        address = environ.get("NOTIFY_SOCKET") or None
        if address is not None and address.startswith("@"):
            address = "\0" + address[1:]  # the abstract namespace
        usec, for_pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
        if not usec.isdecimal() or int(usec) == 0 or for_pid != str(pid):
            return cls(address, None)
        return cls(address, int(usec) * _MICROSECOND)

    def ready(self, status: str) -> bool:
        """The start, or a reload, is through. False: the manager has no room for that now, and waits for it."""
        return self._send("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self, monotonic_ns: int) -> None:
        """The settings are read anew; ``ready`` follows. ``monotonic_ns``: CLOCK_MONOTONIC now."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send(f"STATUS={_one_line(text)}")

    def alive(self) -> None:
        """The watchdog's ping."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        if self.address is None:
            return True
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as peer:
                peer.sendto("\n".join(lines).encode("utf-8", "replace"), self.address)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a manager that is gone, no descriptor left: the next message may get through
        return True


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_STATUS]
