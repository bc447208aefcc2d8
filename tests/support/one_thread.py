"""An event loop whose threads are the one that it runs in."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class InThisThread(ThreadPoolExecutor):
    """Runs what it is given at once. strace counts calls per thread: with one thread, N of them are N of the run."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as every executor does
            future.set_exception(error)
        return future


def run_in_one_thread(work: Coroutine[Any, Any, _Result]) -> _Result:
    """``asyncio.run``, but what is given to a thread is done at once, in this one."""

    async def alone() -> _Result:
        asyncio.get_running_loop().set_default_executor(InThisThread())
        return await work

    return asyncio.run(alone())
