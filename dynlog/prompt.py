"""What one task waits for, and goes on from in the very turn of the event loop in which it was resolved.

A future wakes its task by way of the loop: a handle is made, and the task goes on one round later.  Where a reply comes
in by itself that round (its system call, and what it computes) is a tenth of the whole way.  So whoever takes what a
connection brought resolves its prompts with `settle`, and lets their tasks go on with `go_on` once all of it is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prompt(Generic[T]):
    """Resolves once, for one task; an awaitable of asyncio's future protocol (`asyncio.isfuture`)."""

    # Defaults of the class, so that making one costs a single assignment.
    _asyncio_future_blocking = False
    _done = False
    _value: T
    _error: BaseException | None = None
    _callback: Callable[[Any], object] | None = None
    _context: Context | None = None
    _others: list[tuple[Callable[[Any], object], Context | None]] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    # Whoever waits.

    def __await__(self) -> Generator[Prompt[T], None, T]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the task."""
        return self._loop

    def done(self) -> bool:
        """Whether it is resolved or cancelled."""
        return self._done

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return isinstance(self._error, asyncio.CancelledError)

    def result(self) -> T:
        """What it was resolved with; raises what it failed with, asyncio.InvalidStateError before."""
        if self._error is not None:
            raise self._error
        if not self._done:
            raise asyncio.InvalidStateError("it is not resolved yet")
        return self._value

    def exception(self) -> BaseException | None:
        """What it failed with."""
        if isinstance(self._error, asyncio.CancelledError):
            raise self._error
        return self._error

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Called once it is resolved; only the first one is called by `go_on`, any other when the loop comes round."""
        if self._callback is None and not self._done:
            self._callback, self._context = callback, context
        elif self._done:
            self._loop.call_soon(callback, self, context=context)
        else:
            self._others = [*(self._others or ()), (callback, context)]

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """How many callbacks it took away."""
        kept = [other for other in self._others or () if other[0] != callback]
        removed = len(self._others or ()) - len(kept)
        self._others = kept or None
        if self._callback == callback:
            self._callback = None
            removed += 1
        return removed

    def cancel(self, msg: Any = None) -> bool:
        """Whether whoever waits gets CancelledError: not if it was resolved before."""
        if self._done:
            return False
        self.set_exception(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    # Whoever resolves it.

    def set_result(self, value: T) -> None:
        """Whoever waits goes on when the loop comes round."""
        self.settle(value)
        self.wake()

    def set_exception(self, error: BaseException) -> None:
        """Whoever waits gets the error when the loop comes round."""
        if self._done:
            raise asyncio.InvalidStateError("it is resolved already")
        self._error, self._done = error, True
        self.wake()

    def settle(self, value: T) -> None:
        """Resolves it; whoever does that calls `go_on` with it, before anything else has a turn."""
        if self._done:
            raise asyncio.InvalidStateError("it is resolved already")
        self._value, self._done = value, True

    def wake(self) -> None:
        """Whoever waits goes on when the loop comes round."""
        callback, others = self._callback, self._others
        self._callback = self._others = None
        if others is not None:
            for other, context in others:
                self._loop.call_soon(other, self, context=context)
        if callback is not None:
            self._loop.call_soon(callback, self, context=self._context)


def go_on(prompts: list[Prompt[Any]]) -> None:
    """The tasks that wait for these have gone on, one after the other, when this returns; empties the list.

    Inside of a task, which no other may interrupt, they go on when the loop comes round.
    """
    outside = not prompts or asyncio.current_task(prompts[0]._loop) is None
    try:
        for prompt in prompts:  # a task that goes on may add to them
            callback, context = prompt._callback, prompt._context
            if outside and callback is not None and context is not None and prompt._others is None:
                prompt._callback = None
                context.run(callback, prompt)
            else:
                prompt.wake()
    except BaseException:  # KeyboardInterrupt and its like leave a task that way; the others still have to end
        for prompt in prompts:
            prompt.wake()
        raise
    finally:
        prompts.clear()
