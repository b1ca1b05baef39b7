"""One session at work in an event loop: frames go in and out, events go to whoever waits for them.

What belongs to a stream hangs on its ``owner``, so that an event costs one look-up.  A link knows neither addresses nor
listeners: those attach channels to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from time import monotonic
from typing import Any, Protocol, cast

from dynlog.call_errors import CallError, NotSent
from dynlog.entity import DynamoEntityID, EntityType
from dynlog.errors import Closed, DeadlineExceeded, DynlogError
from dynlog.network.calls import Call
from dynlog.network.deadlines import Deadlines
from dynlog.network.incoming import IncomingCall, wake
from dynlog.network.link_io import FLUSH_AT, FLUSH_AT_MOST, LinkIo
from dynlog.network.outgoing import OutgoingStream, Unary, error_of, lost
from dynlog.network.services import Services
from dynlog.network.serving import SessionAnswers, forget, serve
from dynlog.network.session import Session
from dynlog.network.session_events import (
    Attached,
    CancelledByPeer,
    ChannelFailed,
    Drained,
    Ended,
    Event,
    Failed,
    GoingAway,
    Lost,
    Message,
    Opened,
    Pushed,
    Released,
    SessionOver,
    Writable,
)
from dynlog.network.session_stream import Stream
from dynlog.network.turns import Turns
from dynlog.prompt import Prompt, go_on
from dynlog.record import Buffer


class LinkWatcher(Protocol):
    """Whoever owns the link: a dialler or an acceptor."""

    def attached(self, link: Link, generation: int) -> None:
        """That channel carries the session now."""

    def detached(self, link: Link, generation: int, error: Exception | None) -> None:
        """That channel is gone; ``error`` says why."""

    def going_away(self, link: Link) -> None:
        """The peer takes no further calls on this session."""

    def over(self, link: Link, error: Exception | None) -> None:
        """The session has ended; nothing of it is left."""


class Link(LinkIo):
    """See the module; implements `dynlog.network.calls.CallPath` for the peer at the other end."""

    def __init__(
        self,
        session: Session,
        services: Services,
        deadlines: Deadlines,
        watcher: LinkWatcher,
        own_id: int,
        pushed: Callable[[Link, Pushed], None] | None = None,
    ) -> None:
        super().__init__(session)
        self.services, self.deadlines = services, deadlines
        self.calls: dict[IncomingCall, None] = {}
        """Calls of the peer that are not answered yet."""
        self.turns: Turns[IncomingCall] = Turns(SessionAnswers(self))
        self.peer_name = "?"
        self.own_id = own_id
        self.drained = asyncio.Event()
        self._watcher, self._pushed = watcher, pushed
        self._waiting = 0
        """Calls from here for one reply."""
        self.settled: list[Prompt[Buffer]] = []
        """Replies whose callers go on once everything that came with them is told."""
        self._roomers: deque[asyncio.Future[None]] = deque()
        self._peer: DynamoEntityID | None = None
        self._why: Exception | None = None

    # Calls.

    async def request(self, call: Call, body: Buffer) -> Buffer:
        """See `CallPath.request`."""
        stream = self._open(call, body, True)
        if stream is None:
            stream = await self._open_late(call, body, True)
        waiting = Unary(self, call, stream)
        stream.owner = waiting
        deadlines = self.deadlines
        tick = deadlines.add(waiting, stream.deadline or 0.0)
        self._waiting += 1
        if self._waiting == 1:
            self.flush()  # nothing else can become ready: a round of the loop would bring no company
        else:
            self.wake()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if not stream.over and not self.session.over:
                self.session.cancel(stream, "whoever called was cancelled")
                self.wake()
            raise
        finally:
            self._waiting -= 1
            deadlines.discard(waiting, tick)
            stream.owner = None  # or the two would wait for the garbage collector

    def stream(self, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> OutgoingStream:
        """See `CallPath.stream`."""
        return OutgoingStream(self, call, messages)

    async def open(self, call: Call, body: Buffer | None, end: bool, owner: OutgoingStream) -> Stream:
        """A stream whose events go to the owner; waits for room."""
        stream = self._open(call, body, end)
        if stream is None:
            stream = await self._open_late(call, body, end)
        stream.owner = owner
        self.wake()
        return stream

    async def write(self, stream: Stream, body: Buffer, end: bool, owner: IncomingCall | OutgoingStream) -> None:
        """Sends a message as soon as there is credit; on a stream that is over it does nothing."""
        while not self.session.send(stream, body, end):
            self.wake()
            owner.writer = self.loop.create_future()
            try:
                await owner.writer
            finally:
                owner.writer = None
        self.wake()

    def push(self, target: bytes, topic: str, body: Buffer) -> bool:
        """Whether the message was taken; it belongs to no call and may be lost with the session."""
        if self.session.over or self._port is None:
            return False
        taken = self.session.push(target, topic, body)
        self.wake()
        return taken

    def pushed_consumed(self, size: int) -> None:
        """A pushed message was taken from its queue."""
        self.session.grant_push(1, size)
        self.wake()

    def consumed(self, stream: Stream, body: Buffer) -> None:
        """A message of the stream was taken from its queue."""
        if not stream.over:
            self.session.grant(stream, 1, len(body))
            self.wake()

    def fail_call(self, call: IncomingCall, code: int, kind: str, text: str) -> None:
        """Answers a call of the peer with an error and cancels its handler."""
        self.session.fail(call.stream, code, kind, text)
        call.lost()
        self.wake()

    def caller_of(self, text: str) -> DynamoEntityID:
        """Who makes a call: as it says, or the entity at the other end."""
        return DynamoEntityID.parse(text) if text else self.peer

    @property
    def peer(self) -> DynamoEntityID:
        """The entity at the other end."""
        if self._peer is None:
            said = self.session.peer
            if said is None:
                raise NotSent("the peer has not said yet who it is")
            self._peer = DynamoEntityID(
                int.from_bytes(said.entity, "big"), EntityType.INSTANCE, said.name, (), said.incarnation
            )
        return self._peer

    # Events.

    def dispatch(self, events: Sequence[Event]) -> None:
        """Tells whoever it concerns."""
        for event in events:
            kind = type(event)
            if kind is Message:
                stream, body, end = cast(Message, event)
                if stream.owner is not None:
                    stream.owner.came(body, end)
            elif kind is Opened:
                serve(self, event)  # type: ignore[arg-type]
            else:
                self._other(event)
        # Calls leave by halves of those under way, and all answers to what came together in one piece.
        self.flush_at = min(max(FLUSH_AT, len(self.calls), self._waiting // 2), FLUSH_AT_MOST)
        if self.settled:
            go_on(self.settled)

    def _other(self, event: Event) -> None:
        match event:
            case Ended(stream):
                if stream.owner is not None:
                    stream.owner.came(None, True)
            case Failed(stream, code, kind, text):
                self._end(stream.owner, lambda call: error_of(code, kind, text, call, self.peer_name))
            case CancelledByPeer(stream, reason):
                self._end(stream.owner, lambda call: error_of(2, "", reason, call, self.peer_name))
            case Lost(stream, sent):
                self._end(stream.owner, lambda call: lost(call, sent, self.peer_name, self._why))
            case Writable(None):
                self._next_roomer()
            case Writable(stream):
                wake(None if stream is None or stream.owner is None else stream.owner.writer)
            case Pushed() if self._pushed is not None:
                self._pushed(self, event)
            case Pushed(_, _, body):
                self.session.grant_push(1, len(body))
            case Attached(generation, _):
                self.peer_name = f"{self.peer} at {self.attach(generation).channel.peer}"
                self._watcher.attached(self, generation)
            case Released(generation):
                self.release(generation)
            case ChannelFailed(generation, error):
                self._why = error
                self.drop(generation, error)
            case GoingAway():
                self._watcher.going_away(self)
            case Drained():
                self.drained.set()
            case SessionOver(error):
                self._over(error)

    def detached(self, generation: int, error: Exception | None) -> None:
        """See `LinkIo`."""
        self._watcher.detached(self, generation, error)

    def answered(self) -> None:
        """A call of the peer was answered: with no other at work nothing else can become ready."""
        if self.calls:
            self.wake()
        else:
            self.flush()

    def _end(self, owner: Any, error: Callable[[Call], DynlogError]) -> None:
        if isinstance(owner, IncomingCall):
            owner.lost()
            if not owner.begun:
                forget(self, owner)
        elif owner is not None:
            owner.failed(error(owner.call))

    # The end.

    async def drain(self, reason: str, timeout: float) -> bool:
        """Takes no further call and finishes those that run; whether all were over within the time."""
        if self.session.over:
            return True
        self.session.goaway(reason)
        self.wake()
        try:
            async with asyncio.timeout(timeout):
                await self.drained.wait()
        except TimeoutError:
            return False
        return True

    def close(self, reason: str) -> None:
        """Ends the session at once; every open call is told."""
        if not self.session.over:
            self.dispatch(self.session.close(reason, self.loop.time()))

    def _over(self, error: Exception | None) -> None:
        self.end()
        while self._roomers:
            wake(self._roomers.popleft())
        self.drained.set()
        self._watcher.over(self, error)

    def _open(self, call: Call, body: Buffer | None, end: bool) -> Stream | None:
        try:
            return self.session.open(
                call.target.key, call.topic, "" if call.caller.id == self.own_id else str(call.caller),
                call.correlation_id, call.attempt, call.headers, call.deadline.at, body, end, monotonic(),
            )  # fmt: skip
        except Closed:
            raise lost(call, False, self.peer_name, self._why) from None
        except CallError as error:
            raise type(error)(
                str(error), peer=self.peer_name, topic=call.topic, correlation_id=call.correlation_id
            ) from None

    async def _open_late(self, call: Call, body: Buffer | None, end: bool) -> Stream:
        """Waits for room, as long as the call's deadline allows; first come, first served.

        One is woken at a time and wakes the next: all of them at once would mostly find the room taken.
        """
        again = False
        while True:
            turn: asyncio.Future[None] = self.loop.create_future()
            (self._roomers.appendleft if again else self._roomers.append)(turn)
            self.wake()
            try:
                async with asyncio.timeout(call.deadline.remaining):
                    await turn
            except BaseException as error:
                if turn in self._roomers:
                    self._roomers.remove(turn)
                else:
                    self._next_roomer()  # it was this one's turn
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(
                        f"no room to send the call in time: it never left (peer {self.peer_name}, topic {call.topic})"
                    ) from None
                raise
            try:
                opened = self._open(call, body, end)
            except BaseException:
                self._next_roomer()
                raise
            if opened is not None:
                self._next_roomer()
                return opened
            again = True

    def _next_roomer(self) -> None:
        if self._roomers:
            wake(self._roomers.popleft())
