"""Asynchronous work under signals: the first one asks it to end and waits for that, a second one leaves at once."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from syncd.cli.interrupt import InterruptedBySignalError

T = TypeVar("T")

_THREADS = 16
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


def run(work: Coroutine[None, None, T], *, hint: str | None = None, threads: int = _THREADS) -> T:
    """The result of ``work``, which has so many ``threads`` for what blocks.

    Raise ``InterruptedBySignalError``, with ``hint``, when a signal has ended it.
    """
    caught: list[signal.Signals] = []
    try:
        with asyncio.Runner() as runner:
            return runner.run(_supervised(work, caught, threads))
    except asyncio.CancelledError:
        if caught:
            raise InterruptedBySignalError(caught[0], hint) from None
        raise


async def _supervised(work: Coroutine[None, None, T], caught: list[signal.Signals], threads: int) -> T:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="work"))
    task = loop.create_task(work, name="work")

    def stop(number: signal.Signals) -> None:
        if caught:
            _leave(number)
        caught.append(number)
        task.cancel()

    # What was ignored when we were started (nohup, a script's background job) stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def heed_cancellation() -> None:
    """End here if a signal came while the work was failing: a TaskGroup that is aborting drops a cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _leave(number: signal.Signals) -> None:
    """End the process here and now: whoever asks twice does not want to wait for a slow disk."""
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # the bars had hidden it
        sys.stderr.flush()
    os._exit(128 + number)
