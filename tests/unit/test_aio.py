import asyncio
import threading
import time
from typing import Self

import pytest

from syncd.aio import entered, in_thread


async def test_a_cancelled_call_returns_only_when_its_work_has_ended() -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.2)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0)
    while not started.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_error_of_the_work_is_the_callers() -> None:
    def work() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await in_thread(work)


class Resource:
    def __init__(self) -> None:
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


async def test_what_a_thread_opens_is_closed_though_the_caller_was_cancelled_meanwhile() -> None:
    resource, started = Resource(), threading.Event()

    def make() -> Resource:
        started.set()
        time.sleep(0.2)
        return resource

    async def use() -> None:
        async with entered(make):
            raise AssertionError("cancelled before it could be entered")

    task = asyncio.create_task(use())
    while not started.is_set():
        await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert resource.closed
