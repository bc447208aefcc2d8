"""An import in a process of its own that dies by SIGKILL at its Nth change to the disk."""

import asyncio
import ctypes
import itertools
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from syncd.store.root import Store
from tests.bundles.world import taken_in

_CHANGES = ("open", "link", "rename", "unlink", "rmdir", "mkdir", "fsync", "fdatasync", "fchmod", "utime", "pwritev")
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)  # linux/prctl.h
_MAKES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)


def import_and_die(store: str, bundle: str, number: int, *, pipe: bool) -> None:
    """Import; die right before change ``number`` (from 1 on), if there are so many. Exit code 0 otherwise."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    counter = itertools.count(1)

    def dying(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def then(*args: Any, **kwargs: Any) -> Any:
            changes = name != "open" or (len(args) > 1 and args[1] & _MAKES)
            if changes and next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return then

    for name in _CHANGES:
        setattr(os, name, dying(name, getattr(os, name)))
    _import(store, bundle, pipe=pipe)


def import_when_told(store: str, bundle: str, told: Connection, *, pipe: bool) -> None:
    """Import in one thread, so that strace counts all its calls, once somebody who traces us says so."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    told.recv()
    _import(store, bundle, pipe=pipe)


def _import(store: str, bundle: str, *, pipe: bool) -> None:
    async def work(opened: Store, path: Path | None, stream: int | None) -> None:
        with ThreadPoolExecutor(1) as one:
            asyncio.get_running_loop().set_default_executor(one)
            await taken_in(opened, path, stream=stream)

    with Store.open(Path(store), create=True) as opened:
        if pipe:
            out, into = os.pipe()
            os.write(into, Path(bundle).read_bytes())  # it is small enough for a pipe
            os.close(into)
            asyncio.run(work(opened, None, out))
        else:
            asyncio.run(work(opened, Path(bundle), None))
    sys.stdout.flush()
    os._exit(0)
