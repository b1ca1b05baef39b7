"""How a command's coroutine runs: `run` for one that ends by itself, `serve` for one that goes on until it is stopped.

Commands run on asyncio's own loop whatever policy is set: uvloop takes signals over, and `interrupt` needs them.

Both end within `interrupt.GRACE_S` of SIGINT or SIGTERM.  A command that was stopped under `run` did not do what it was
asked for and exits 130; one under `serve` acknowledges what it took, closes, and exits 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dynlog.cli.interrupt import Interrupt, waking

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end and returns the result; a signal cancels it: KeyboardInterrupt then."""

    async def body(stop: asyncio.Event) -> tuple[T] | None:
        return await until_stopped(work, stop)

    result = serve(body)
    if result is None:
        raise KeyboardInterrupt
    return result[0]


def serve(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Runs ``work(stop)``; ``stop`` is set by the first signal, and the work is to come to its end then.

    The work need not look at ``stop`` all the time: `until_stopped` cuts short whatever may be cut short.
    """

    async def body() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        interrupt = Interrupt.installed()
        interrupt.listen(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            with waking(loop):
                return await work(stop)
        finally:
            interrupt.listen(lambda: None)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(body())


@contextmanager
def interruptible() -> Iterator[None]:
    """For a block that waits for a person outside `run` and `serve`: a signal raises KeyboardInterrupt in it."""

    def tell() -> None:
        raise KeyboardInterrupt

    interrupt = Interrupt.installed()
    interrupt.listen(tell)
    try:
        yield
    finally:
        interrupt.listen(lambda: None)


async def until_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> tuple[T] | None:
    """The result in a tuple, or None if ``stop`` was set first: the work was cancelled then and has ended."""
    if stop.is_set():
        work.close()
        return None
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return (task.result(),)
        return None
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
