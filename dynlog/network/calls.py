"""What a call is, whichever path carries it: every open call resolves exactly once.

It ends in a reply or raises one of: `HandlerFailed` (what the handler raised), `Cancelled`, DeadlineExceeded, `NotSent`
(never begun by anybody, safe to make again), `CallOutcomeUnknown` (its handler ran zero or one times), `NoSuchTopic`,
`MessageTooLarge`, `Expired`.  A session with a peer is one path, the log another; the call suite holds both to this.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from dynlog.entity import DynamoEntityID
from dynlog.network.locating import this_process
from dynlog.record import Buffer
from dynlog.timing import Deadline

MAX_TOPIC_BYTES = 249
MAX_HEADERS = 64
MAX_HEADERS_BYTES = 16 << 10
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# With the process's own text before it, a number does: a fifth of the price of a random id for each call.
_COUNT = count()


def new_id() -> str:
    """The correlation id of a call that was given none."""
    return f"{this_process()}-{next(_COUNT):x}"


@dataclass(slots=True)  # not frozen, which would triple the price of making one: nobody changes it all the same
class Call:
    """One call as its caller makes it; repeated under the same ``correlation_id`` it is the same call."""

    target: DynamoEntityID
    topic: str
    deadline: Deadline
    caller: DynamoEntityID
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """They travel to the handler and on to the calls that it makes: trace id, tenant, priority."""
    correlation_id: str = field(default_factory=new_id)
    attempt: int = 1


class Request(Protocol):
    """A call as its handler sees it."""

    @property
    def target(self) -> DynamoEntityID:
        """Who was called."""

    @property
    def topic(self) -> str:
        """What was called."""

    @property
    def caller(self) -> DynamoEntityID:
        """Who called."""

    @property
    def headers(self) -> Mapping[str, str]:
        """As the caller gave them."""

    @property
    def correlation_id(self) -> str:
        """The same for every attempt at the same call."""

    @property
    def attempt(self) -> int:
        """1 for the first; an outside effect may have been made by an earlier one."""

    @property
    def deadline(self) -> Deadline:
        """What is left of the caller's time."""

    @property
    def body(self) -> Buffer:
        """The first message of the request: all of it, unless it is a stream."""

    def messages(self) -> AsyncIterator[Buffer]:
        """All messages of the request, the first included; the caller is made to wait while nobody takes them.

        Raises `Cancelled` if the caller, or the way to it, is gone before the end.
        """


Handler = Callable[[Request], Awaitable[Buffer | None] | AsyncIterator[Buffer]]
"""A coroutine function gives one reply (None: an empty one); an async generator function gives a stream of them.

When the caller cancels, its deadline passes or it is gone, the handler is cancelled.
"""


class ReplyStream(Protocol):
    """The replies to a call, in order; left early, it cancels the handler."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Buffer:
        """The next reply; raises how the call ended, if not by the end of its replies."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class CallPath(Protocol):
    """A way on which calls to one peer, or to any, go."""

    async def request(self, call: Call, body: Buffer) -> Buffer:
        """The one reply.  Cancelling this cancels the handler.  Raises as the module says."""

    def stream(self, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> ReplyStream:
        """The replies; a request of several messages is sent as the handler takes them."""
