"""The few asyncio helpers: work in threads that is never abandoned, and waiting that polls."""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in the loop's executor; return only when it has ended.

    A cancelled ``asyncio.to_thread`` returns at once while its work goes on, into a descriptor that may have been
    closed and reused by then. Here a cancellation waits for the work and is then delivered.
    """
    context = contextvars.copy_context()
    work = asyncio.get_running_loop().run_in_executor(None, functools.partial(context.run, function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
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
