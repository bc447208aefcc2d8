"""A process that has everything imported and forks a child per collection, so that a run costs no new interpreter.

Started with the number of a socket (SOCK_SEQPACKET). Per run: an order comes in as JSON, the child's pid goes out, the
child waits for ``go``, so that strace can be attached to it before it does anything, and its wait status goes out.
"""

import asyncio
import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from syncd.jobs.collect import collect
from syncd.jobs.collection import CollectRules
from syncd.store.root import Store

MESSAGE = 1 << 16
GO = b"go"
_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h: lets strace attach where Yama restricts it
_ANYBODY = ctypes.c_ulong(-1)
_UNEXPECTED = 70


class _InThisThread(ThreadPoolExecutor):
    """Runs what it is given at once. strace counts calls per thread: with one thread, N of them are N of the run."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as every executor does
            future.set_exception(error)
        return future


async def _collect(path: Path, now: float, quarantine_age: float) -> None:
    asyncio.get_running_loop().set_default_executor(_InThisThread())
    with Store.open(path, create=False) as store:
        await collect(store, now=now, rules=CollectRules(quarantine_age=quarantine_age))


def _child(channel: socket.socket, order: dict[str, Any]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    if channel.recv(MESSAGE) != GO:
        return _UNEXPECTED
    asyncio.run(_collect(Path(order["store"]), order["now"], order["quarantine_age"]))
    return 0


def main() -> None:
    """Serve orders until the test process closes its end."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    while order := channel.recv(MESSAGE):
        if order == GO:  # for a child that was killed before it took it
            continue
        pid = os.fork()
        if pid == 0:
            code = _UNEXPECTED
            try:
                code = _child(channel, json.loads(order))
            finally:
                os._exit(code)
        channel.send(json.dumps({"pid": pid}).encode())
        _, status = os.waitpid(pid, 0)
        channel.send(json.dumps({"status": status}).encode())


if __name__ == "__main__":
    main()
