"""Runs in processes of their own, forked from one that has everything imported already (see ``forker``)."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.forker import GO, MESSAGE

ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0  # seconds for one run


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. ``returncode``: as subprocess has it. ``result``: what the function gave, or what it raised."""

    returncode: int
    result: Mapping[str, Any]

    @property
    def done(self) -> bool:
        return self.returncode == 0

    @property
    def killed(self) -> bool:
        """By SIGKILL; no other signal may end it."""
        assert self.returncode in {0, -signal.SIGKILL} or self.returncode > 0, f"died of signal {-self.returncode}"
        return self.returncode < 0


@dataclass(slots=True)
class Run:
    """A run that waits for ``go``, or is under way."""

    pid: int
    _channel: socket.socket
    _result: dict[str, Any] = field(default_factory=dict)

    def go(self) -> Self:
        """Let it begin."""
        self._channel.send(GO)
        return self

    def wait(self, seconds: float = _PATIENCE) -> Ending:
        """Until it ends. TimeoutError after ``seconds``; it can be asked again then."""
        self._channel.settimeout(seconds)
        while "status" not in self._result:
            self._result |= json.loads(self._channel.recv(MESSAGE))
        self._channel.close()
        return Ending(os.waitstatus_to_exitcode(self._result.pop("status")), self._result)

    def kill(self) -> Ending:
        """SIGKILL, now, unless it has ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


class Forker:
    """A context manager: the process that forks, with ``modules`` imported."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __enter__(self) -> Self:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.support.forker", str(theirs.fileno()), *self._modules),
                pass_fds=(theirs.fileno(),),
                cwd=ROOT,
                env={**os.environ, "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a run's is its own
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._orders.close()
        try:
            self._process.wait(timeout=_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()

    def fork(
        self,
        call: str,
        arguments: Mapping[str, Any],
        *,
        streams: tuple[int, int, int] = (0, 2, 2),
        environ: Mapping[str, str] | None = None,
    ) -> Run:
        """A process that does ``module:function(**arguments)`` once it may ``go``.

        ``streams``: its stdin, stdout and stderr. ``environ``: instead of this process's.
        """
        order = {"call": call, "arguments": dict(arguments), "environ": environ and dict(environ)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [theirs.fileno(), *streams])
        ours.settimeout(_PATIENCE)
        return Run(json.loads(ours.recv(MESSAGE))["pid"], ours)
