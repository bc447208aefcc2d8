"""An import in a process of its own, which may die by SIGKILL at its Nth change to the disk."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from syncd.store.root import Store
from tests.bundles.world import taken_in
from tests.support.one_thread import run_in_one_thread

_CHANGES = ("open", "link", "rename", "unlink", "rmdir", "mkdir", "fsync", "fdatasync", "fchmod", "utime", "pwritev")
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
    _import(Path(store), Path(bundle), pipe=pipe)


def import_all(store: str, bundle: str, *, pipe: bool) -> None:
    """Import in one thread, so that strace counts all its calls."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    _import(Path(store), Path(bundle), pipe=pipe)


def _import(path: Path, bundle: Path, *, pipe: bool) -> None:
    with Store.open(path, create=True) as store:
        if pipe:
            out, into = os.pipe()
            os.write(into, bundle.read_bytes())  # it is small enough for a pipe
            os.close(into)
            run_in_one_thread(taken_in(store, None, stream=out))
        else:
            run_in_one_thread(taken_in(store, bundle))
