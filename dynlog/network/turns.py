"""Handlers at work: each call becomes exactly one outcome, unless nobody waits for it any more.

Whatever a handler does is one: what it returns or raises, a result of the wrong type, its cancellation.  Which path
brought a call, and says its outcome, is the business of `Answers`.

Handlers that did not wait the last time share a task, as most of a short call is its task.  One that waits after all
keeps the task, and each that is left gets its own; so handlers begin in the order in which calls came.  Whoever would
find the task touched, by a cancellation or a changed context variable, gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, Generic, Protocol, TypeVar, cast

from dynlog.errors import DynlogError
from dynlog.network.calls import Request
from dynlog.network.frames import Code
from dynlog.network.incoming import current_call
from dynlog.network.outcomes import failure
from dynlog.network.services import Service

_log = logging.getLogger(__name__)


class Handled(Request, Protocol):
    """A call whose handler is to run."""

    service: Service
    task: asyncio.Task[None] | None
    begun: bool

    @property
    def gone(self) -> bool:
        """Whether nobody here has to say its outcome any more."""


C = TypeVar("C", bound=Handled)
Said = TypeVar("Said", bound=Handled, contravariant=True)


class Answers(Protocol[Said]):
    """How one path says what became of its calls."""

    def reply(self, call: Said, result: object) -> Awaitable[object] | None:
        """Says what the handler returned; gives what is left to wait for, if anything."""

    async def replies(self, call: Said, handler: AsyncGenerator[object, None]) -> bool:
        """Says each of a stream, and its end; whether somebody was there for all of them."""

    def fail(self, call: Said, code: int, kind: str, text: str) -> None:
        """Says an error."""

    def ended(self, call: Said, *, failed: bool) -> None:
        """The handler is done, and its outcome said."""


class Turns(Generic[C]):
    """The calls of one session or lane that are about to be handled, in order; ``made`` is told of each task."""

    __slots__ = ("_answers", "_loop", "_made", "_runner", "_turn")

    def __init__(self, answers: Answers[C], made: Callable[[asyncio.Task[None]], object] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers, self._made = answers, made
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

    async def _run(self, calls: deque[C]) -> None:
        """Handlers one after the other, until one waits."""
        if self._turn is calls:  # what comes now is the next turn's
            self._turn = self._runner = None
        answers, task, context = self._answers, asyncio.current_task(), copy_context()
        assert task is not None
        try:
            while calls:
                call = calls.popleft()
                call.task, call.begun = task, True
                service = call.service
                failed = True
                try:
                    if call.gone:
                        continue
                    before = current_call.set(call)
                    # Which of the two a handler is was looked at when it was added.
                    handler = cast(Any, service.handler)(call)
                    if service.streaming:
                        self._apart(calls, context)
                        failed = not await answers.replies(call, handler)
                        continue
                    try:
                        waited = handler.send(None)
                    except StopIteration as done:
                        result = done.value
                        service.prompt = True
                    else:
                        service.prompt = False
                        self._apart(calls, context)
                        result = await _rest(handler, waited)
                    left = answers.reply(call, result)
                    if left is not None:
                        self._apart(calls, context)
                        await left
                    failed = False
                except asyncio.CancelledError:
                    if not call.gone:
                        answers.fail(call, Code.CANCELLED, "", "the handler was cancelled where it runs")
                except Exception as error:
                    if not call.gone:
                        answers.fail(call, *failure(error))
                        if not isinstance(error, DynlogError):
                            _log.warning("the handler of %r raised %r", call.topic, error, exc_info=error)
                finally:
                    call.task = None
                    answers.ended(call, failed=failed)
                if calls:
                    current_call.reset(before)
                    if _touched(task, context):
                        return
        finally:
            self._apart(calls, context)

    def _apart(self, calls: deque[C], context: Context) -> None:
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


def _touched(task: asyncio.Task[Any], context: Context) -> bool:
    """Whether the next handler would find the task, which runs, otherwise than a new one."""
    if task.cancelling():
        return True
    try:
        return copy_context() != context
    except Exception:  # values that cannot be compared, so others than those that were there
        return True


@coroutine
def _rest(handler: Generator[Any, None, Any], waited: object) -> Generator[Any, None, Any]:
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
