"""A process that has everything imported and forks a child per pull, so that a run costs a fork and not an interpreter.

Started with the number of a socket (SOCK_SEQPACKET). Per pull: an order comes in as JSON, the child's pid goes out, and
the child waits for ``go``, so that strace can be attached to it before it does anything. Its result goes out, unless it
is killed, and then its wait status.
"""

import asyncio
import contextlib
import ctypes
import encodings.idna  # noqa: F401 - imported at the first connection otherwise
import gc
import json
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from syncd.download.fetch import Fetcher
from syncd.download.transfer import FetchSettings
from syncd.errors import SyncdError
from syncd.jobs.pull import PullMeans, pull
from syncd.jobs.rollback import plan, roll_back
from syncd.oci.name import Reference
from syncd.registry.client import RegistryClient
from syncd.store.root import Store

_MESSAGE = 1 << 16
_GO = b"go"
_UNEXPECTED = 70
_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h: lets strace attach where Yama restricts it
_ANYBODY = ctypes.c_ulong(-1)


class _InThisThread(ThreadPoolExecutor):
    """Runs what it is given at once. strace counts calls per thread: with one thread, N of them are N of the pull."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as every executor does
            future.set_exception(error)
        return future


async def _pull(order: dict[str, Any]) -> dict[str, Any]:
    if order["one_thread"]:
        asyncio.get_running_loop().set_default_executor(_InThisThread())
    settings = FetchSettings(connections=order["connections"], attempts=4, backoff=0.01, longest_backoff=0.02)
    client = RegistryClient({}, connect_timeout=10, read_timeout=20, random=random.random)
    async with client as registry:
        with Store.open(Path(order["store"]), create=True) as store:
            fetcher = Fetcher(registry, settings, clock=time.monotonic, random=random.random)
            means = PullMeans(store=store, registry=registry, fetcher=fetcher, floor=0)
            reference = Reference.parse(order["name"])
            if order["rollback"]:
                planned = plan(store, reference.name, None, means.policy)
                outcome = await roll_back(planned, means, "a test", lambda _: None)
            else:
                outcome = await pull(reference, means, lambda _: None)
    return {"current": outcome.current, "fetched": outcome.fetched_bytes}


def _child(channel: socket.socket, order: dict[str, Any]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    if channel.recv(_MESSAGE) != _GO:
        return _UNEXPECTED
    code = 0
    try:
        result = asyncio.run(_pull(order))
    except SyncdError as error:
        code = int(error.exit_code)
        result = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except BaseException:  # noqa: BLE001 - whatever it is, the test has to see it
        code = _UNEXPECTED
        result = {"unexpected": traceback.format_exc()[-_MESSAGE // 4 :]}
    # Not by write(2): that call may be the one that fails.
    channel.send(json.dumps(result).encode())
    return code


def main() -> None:
    """Serve orders until the test process closes its end."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    gc.collect()
    gc.freeze()
    while order := channel.recv(_MESSAGE):
        if order == _GO:  # for a child that was killed before it took it
            continue
        pid = os.fork()
        if pid == 0:
            code = _UNEXPECTED
            with contextlib.suppress(OSError):  # the test process has gone
                code = _child(channel, json.loads(order))
            os._exit(code)
        channel.send(json.dumps({"pid": pid}).encode())
        _, status = os.waitpid(pid, 0)
        channel.send(json.dumps({"status": status}).encode())


if __name__ == "__main__":
    main()
