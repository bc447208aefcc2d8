"""What is done in a process of its own (see ``tests.support.forker``): a collection, in one thread."""

from pathlib import Path

import structlog

from syncd.jobs.collect import collect
from syncd.jobs.collection import CollectRules
from syncd.store.root import Store
from tests.support.one_thread import run_in_one_thread


def collected(store: str, now: float, quarantine_age: float) -> None:
    """``now`` in Unix time, ``quarantine_age`` in seconds."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with Store.open(Path(store), create=False) as opened:
        run_in_one_thread(collect(opened, now=now, rules=CollectRules(quarantine_age=quarantine_age)))
