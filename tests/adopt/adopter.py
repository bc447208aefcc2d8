"""An adoption in a process of its own that dies by SIGKILL at its Nth change to a disk, whatever store that is in."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from syncd.store.root import Store
from tests.adopt.world import adopted
from tests.support.one_thread import run_in_one_thread

_CHANGES = (
    "link",
    "rename",
    "unlink",
    "rmdir",
    "mkdir",
    "fsync",
    "fchmod",
    "fchown",
    "utime",
    "copy_file_range",
    "pwritev",
)


def adopt_and_die(store: str, source: str, number: int, *, delete: bool) -> None:
    """Adopt; die right before change ``number`` (from 1 on), if there are so many. Exit code 0 otherwise."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    counter = itertools.count(1)

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def then(*args: Any, **kwargs: Any) -> Any:
            if next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return then

    for name in _CHANGES:
        setattr(os, name, dying(getattr(os, name)))
    with Store.open(Path(store), create=True) as opened:
        run_in_one_thread(adopted(opened, Path(source), delete=delete))
