"""Which task runs which handler: those that did not wait the last time share one, as most of a short call is its task.

One that waits after all keeps the task, and each that is left gets its own; so handlers begin in the order in which
calls came.  Whoever finds the task touched, by a cancellation or a changed context variable, gets a new one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, Generic, Protocol, TypeVar

from dynlog.network.services import Service

Run = Coroutine[Any, Any, None]


class Handled(Protocol):
    """A call whose handler is to run."""

    service: Service
    task: asyncio.Task[None] | None


C = TypeVar("C", bound=Handled)


class Turns(Generic[C]):
    """The calls of one session or lane that are about to be handled; ``run`` handles those it is given, in order."""

    __slots__ = ("_loop", "_made", "_run", "_runner", "_turn")

    def __init__(
        self, run: Callable[[deque[C]], Run], made: Callable[[asyncio.Task[None]], object] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._run, self._made = run, made
        self._turn: deque[C] | None = None
        """What one task will run as the loop comes round."""
        self._runner: asyncio.Task[None] | None = None

    def start(self, call: C) -> None:
        """Runs the handler when the loop comes round."""
        if not call.service.prompt:
            self._turn = None  # what comes after this one begins after it
            call.task = self._task(deque((call,)))
        elif self._turn is None or self._runner is None or self._runner.done():
            self._turn = deque((call,))
            call.task = self._runner = self._task(self._turn)
        else:
            call.task = self._runner
            self._turn.append(call)

    def begun(self, calls: deque[C]) -> tuple[asyncio.Task[Any], Context]:
        """Called by ``run`` first; what comes now is the next turn's.  Returns the task, and its context as it was."""
        if self._turn is calls:
            self._turn = self._runner = None
        task = asyncio.current_task()
        assert task is not None
        return task, copy_context()

    def apart(self, calls: deque[C], context: Context) -> None:
        """Gives each of the calls a task of its own in such a context, and those that would have followed them."""
        if calls and self._turn is not None:
            calls += self._turn
            self._turn.clear()
            self._turn = self._runner = None
        while calls:
            call = calls.popleft()
            call.task = self._task(deque((call,)), context.copy())

    def _task(self, calls: deque[C], context: Context | None = None) -> asyncio.Task[None]:
        task = self._loop.create_task(self._run(calls), context=context)
        if self._made is not None:
            self._made(task)
        return task


def touched(task: asyncio.Task[Any], context: Context) -> bool:
    """Whether the next handler would find the task, which runs, otherwise than a new one."""
    if task.cancelling():
        return True
    try:
        return copy_context() != context
    except Exception:  # values that cannot be compared, so others than those that were there
        return True


@coroutine
def rest(handler: Generator[Any, None, Any], waited: object) -> Generator[Any, None, Any]:
    """The handler from where it waits first."""
    while True:
        try:
            yield waited
        except BaseException as error:
            try:
                waited = handler.throw(error)
            except StopIteration as done:
                return done.value
        else:
            return (yield from handler)
