"""An import in a process of its own."""

import os
from pathlib import Path

import structlog

from syncd.store.root import Store
from tests.bundles.world import taken_in
from tests.support.one_thread import run_in_one_thread


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
