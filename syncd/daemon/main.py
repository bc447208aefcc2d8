"""The service from its first moment to its last: its lock, its loop, its signals, and the order in which it ends."""

import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from syncd.aio import only_error
from syncd.api.catalogue import rfc3339
from syncd.daemon.loaded import Loaded
from syncd.daemon.serving import Serving
from syncd.daemon.settings import MAX_CONNECTIONS
from syncd.errors import ExitCode, SyncdError
from syncd.store.locks import Lock
from syncd.store.root import Store

log = structlog.get_logger()

_THREADS = MAX_CONNECTIONS + 32  # one for each connection, and some for hashing, syncing and looking
_STOP_WITHIN = 9.0  # seconds after which an end that hangs is forced


def run(loaded: Loaded, store: Store, environ: Mapping[str, str], *, named: Path | None) -> int:
    """Serve until a signal ends it; the exit code.

    ``loaded``: the settings to begin with, ``named``: the file that was asked for, if one was.

    Raise ``BusyError`` where the store has a daemon, other ``SyncdError`` where it cannot start.
    """
    faulthandler.enable()  # a watchdog's SIGABRT leaves a traceback in the log
    holder = f"pid {os.getpid()}, since {rfc3339(time.time())}"
    try:
        with store.locks.daemon(holder) as lock, asyncio.Runner() as runner:
            return runner.run(_serve(loaded, store, lock, environ, named))
    except SyncdError as error:
        log.error("daemon.failed", error=error.message, hint=error.hint)  # noqa: TRY400 - expected: no traceback
        raise
    except Exception:
        log.exception("daemon.crashed")
        raise


async def _serve(loaded: Loaded, store: Store, lock: Lock, environ: Mapping[str, str], named: Path | None) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as services, asyncio.TaskGroup() as jobs:
            serving = Serving(loaded, store, lock, environ, named, jobs)
            _hear_signals(serving)
            await serving.begin(stack)
            tasks = [services.create_task(work, name=name) for name, work in serving.services()]
            serving.announce_ready()
            await serving.stopping.wait()
            serving.board.close()
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise only_error(errors, (SyncdError,)) from errors
    log.info("daemon.stopped")
    return ExitCode.DONE


def _hear_signals(serving: Serving) -> None:
    """SIGTERM and SIGINT end the daemon, SIGHUP has the settings read anew, as soon as it has begun."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, serving, number)
    loop.add_signal_handler(signal.SIGHUP, serving.reload)


def _stop(serving: Serving, number: signal.Signals) -> None:
    if serving.stopping.is_set():
        os._exit(128 + number)  # whoever asks twice does not want to wait for a slow disk
    log.info("daemon.stopping", signal=number.name)
    serving.stop()
    asyncio.get_running_loop().call_later(_STOP_WITHIN, _leave)


def _leave() -> None:
    """Its time is up: journals and the order of every write make that as safe as a power cut."""
    log.error("daemon.end_forced", after=_STOP_WITHIN)
    sys.stderr.flush()
    os._exit(1)
