"""An import in a process of its own that dies by SIGKILL at its Nth change to the disk."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from syncd.store.root import Store
from tests.bundles.world import taken_in

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
    with Store.open(Path(store), create=True) as opened:
        if pipe:
            # A FIFO that nobody writes to any more: what a shell's "< FILE" would give is no pipe.
            out, into = os.pipe()
            os.write(into, Path(bundle).read_bytes())
            os.close(into)
            asyncio.run(taken_in(opened, None, stream=out))
        else:
            asyncio.run(taken_in(opened, Path(bundle)))
    sys.stdout.flush()
    os._exit(0)
