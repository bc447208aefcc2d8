"""The few asyncio helpers: work in threads that is never abandoned, and waiting that polls."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in the loop's executor; return only when it has ended.

    A cancelled ``asyncio.to_thread`` returns at once while its work goes on, into a descriptor that may have been
    closed and reused by then. Here a cancellation waits for the work and is then delivered. What the work returns is
    lost then: for what has to be closed there is ``entered``.
    """
    return await _ended(_submit(function, *args, **kwargs))


async def in_thread_stoppable(function: Callable[[Callable[[], bool]], T], executor: Executor | None = None) -> T:
    """As ``in_thread``, for work that takes long: it is handed a function that says whether it was cancelled.

    ``executor``: whose thread; None: the loop's.
    """
    stop = threading.Event()
    return await _ended(_submit_to(executor, function, stop.is_set), on_cancel=stop.set)


async def to_its_end(steps: Coroutine[None, None, T], *, name: str) -> T:
    """Go through a few short steps that must not be left half done: a cancellation waits for the last one."""
    return await _ended(asyncio.create_task(steps, name=name))


@asynccontextmanager
async def entered(
    function: Callable[P, AbstractContextManager[T]], /, *args: P.args, **kwargs: P.kwargs
) -> AsyncIterator[T]:
    """Enter a context that a thread makes; it is left again even if the caller is cancelled while it is being made."""
    work = _submit(function, *args, **kwargs)
    try:
        manager = await _ended(work)
    except asyncio.CancelledError:
        if not work.cancelled() and work.exception() is None:
            with work.result():
                pass
        raise
    with manager as value:
        yield value


def _submit(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    return _submit_to(None, function, *args, **kwargs)


def _submit_to(
    executor: Executor | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    work = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(executor, work)


async def _ended(work: asyncio.Future[T], on_cancel: Callable[[], None] | None = None) -> T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not work.done():
            try:
                await asyncio.wait((work,))
            except asyncio.CancelledError:
                continue
        if not work.cancelled():
            work.exception()  # retrieved: the cancellation is what the caller sees
        raise


def only_error(group: BaseExceptionGroup, expected: tuple[type[BaseException], ...]) -> BaseException:
    """The one error that a TaskGroup's failure is about: unexpected ones first (they are bugs), then in order."""
    leaves = list(_leaves(group))
    unexpected = [leaf for leaf in leaves if not isinstance(leaf, expected)]
    ranked = unexpected or sorted(
        leaves, key=lambda leaf: next(rank for rank, kind in enumerate(expected) if isinstance(leaf, kind))
    )
    return ranked[0]


def _leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
