"""One session at work in an event loop: frames go in and out, events go to whoever waits for them.

What is ready when the loop comes round leaves in one write.  What belongs to a stream hangs on its ``owner``, so
that an event costs one look-up.  A link knows neither addresses nor listeners: those attach channels to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any, Protocol

from dynlog.call_errors import CallError, NotSent
from dynlog.entity import DynamoEntityID, EntityType
from dynlog.errors import Closed, DynlogError
from dynlog.network.calls import Call
from dynlog.network.deadlines import Deadlines
from dynlog.network.incoming import IncomingCall, wake
from dynlog.network.outgoing import OutgoingStream, Unary, error_of, lost, too_late
from dynlog.network.services import Services
from dynlog.network.serving import forget, serve
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
from dynlog.record import Buffer
from dynlog.wire import Channel

FLUSH_AT = 16
"""What a round of the loop makes ready leaves in pieces of about so many records: both ends are at work at once, and a
write is still cheap beside what it carries."""
TAKE_BYTES = 256 << 10
"""What is handed to a channel at once before it is asked whether it has room."""


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


class Port:
    """The receiver of one channel."""

    __slots__ = ("channel", "generation", "link")

    def __init__(self, link: Link, generation: int, channel: Channel) -> None:
        self.link, self.generation, self.channel = link, generation, channel

    def frames_received(self, frames: Sequence[Buffer]) -> None:
        self.link.frames_received(self.generation, frames)

    def writable(self) -> None:
        self.link.channel_writable(self.generation)

    def channel_lost(self, error: Exception | None) -> None:
        self.link.channel_lost(self.generation, error)


class Link:
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
        self.loop = asyncio.get_running_loop()
        self.session, self.services, self.deadlines = session, services, deadlines
        self.calls: dict[IncomingCall, None] = {}
        """Calls of the peer that are not answered yet."""
        self.ports: dict[int, Port] = {}
        self.peer_name = "?"
        self.own_id = own_id
        self.drained = asyncio.Event()
        self._watcher, self._pushed = watcher, pushed
        self._port: Port | None = None
        self._writable = False
        self._scheduled = False
        self._ready = 0
        self._waiting = 0
        """Calls from here for one reply."""
        self._roomers: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._peer: DynamoEntityID | None = None
        self._generation = 0
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
            self._flush()  # nothing else can become ready: a round of the loop would bring no company
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

    # Channels.

    def port(self, channel: Channel) -> Port:
        """The receiver for a new channel, under the next generation; nothing is sent on it yet."""
        self._generation += 1
        port = self.ports[self._generation] = Port(self, self._generation, channel)
        return port

    @property
    def channel(self) -> Channel | None:
        """What carries the session now."""
        return None if self._port is None else self._port.channel

    def frames_received(self, generation: int, frames: Sequence[Buffer]) -> None:
        """Called by a port."""
        now, session = self.loop.time(), self.session
        for frame in frames:
            events = session.receive(generation, frame, now)
            if events:
                self.dispatch(events)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._come_round)

    def channel_writable(self, generation: int) -> None:
        """Called by a port."""
        if self._port is not None and self._port.generation == generation:
            self._writable = True
            self.wake()

    def channel_lost(self, generation: int, error: Exception | None) -> None:
        """Called by a port."""
        port = self.ports.pop(generation, None)
        if port is None:
            return
        if self._port is port:
            self._port = None
        self.dispatch(self.session.lost(generation, self.loop.time()))
        self._rearm()
        self._watcher.detached(self, generation, error)

    # The work of each round of the loop.

    def wake(self) -> None:
        """What is ready leaves when the loop comes round; of much, a part leaves before, so that the peer may begin."""
        self._ready += 1
        if self._ready >= FLUSH_AT:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._come_round)

    def answered(self) -> None:
        """A call of the peer was answered: with no other at work nothing else can become ready."""
        if self.calls:
            self.wake()
        else:
            self._flush()

    def _come_round(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        self._ready = 0
        session = self.session
        port = self._port
        if port is not None and self._writable:
            send = port.channel.send
            while session.wants_write:
                frames = session.take(TAKE_BYTES)
                if not frames:
                    break
                if not send(frames):
                    self._writable = False
                    break
        if events := session.events():
            self.dispatch(events)
        self._rearm()

    def _rearm(self) -> None:
        at = self.session.next_timeout()
        if self._timer is None:
            if at == float("inf"):
                return
        elif at >= self._timer_at:
            return  # it fires early, and is set anew then
        else:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.dispatch(self.session.tick(self.loop.time()))
        self._flush()

    def dispatch(self, events: Sequence[Event]) -> None:
        """Tells whoever it concerns."""
        for event in events:
            kind = type(event)
            if kind is Message:
                event.stream.owner.came(event.body, event.end)  # type: ignore[union-attr]
            elif kind is Opened:
                serve(self, event)  # type: ignore[arg-type]
            else:
                self._other(event)

    def _other(self, event: Event) -> None:
        match event:
            case Ended(stream):
                stream.owner.came(None, True)
            case Failed(stream, code, kind, text):
                self._end(stream.owner, lambda call: error_of(code, kind, text, call, self.peer_name))
            case CancelledByPeer(stream, reason):
                self._end(stream.owner, lambda call: error_of(2, "", reason, call, self.peer_name))
            case Lost(stream, sent):
                self._end(stream.owner, lambda call: lost(call, sent, self.peer_name, self._why))
            case Writable(None):
                while self._roomers:
                    wake(self._roomers.popleft())
            case Writable(stream):
                wake(None if stream is None else stream.owner.writer)
            case Pushed() if self._pushed is not None:
                self._pushed(self, event)
            case Pushed(_, _, body):
                self.session.grant_push(1, len(body))
            case Attached(generation, _):
                self._port, self._writable = self.ports[generation], True
                self.peer_name = f"{self.peer} at {self._port.channel.peer}"
                self._watcher.attached(self, generation)
            case Released(generation):
                if (port := self.ports.get(generation)) is not None:
                    port.channel.close()
            case ChannelFailed(generation, error):
                self._why = error
                if (port := self.ports.pop(generation, None)) is not None:
                    if self._port is port:
                        self._port = None
                    port.channel.abort()
                    self._watcher.detached(self, generation, error)
            case GoingAway():
                self._watcher.going_away(self)
            case Drained():
                self.drained.set()
            case SessionOver(error):
                self._over(error)

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
        # The last word leaves on whatever carried the session.
        if self._port is not None and self.session.wants_write:
            self._port.channel.send(self.session.take(TAKE_BYTES))
        self._port = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for port in list(self.ports.values()):
            port.channel.close()
        while self._roomers:
            wake(self._roomers.popleft())
        self.drained.set()
        self._watcher.over(self, error)

    def _open(self, call: Call, body: Buffer | None, end: bool) -> Stream | None:
        now = self.loop.time()
        try:
            return self.session.open(
                call.target.key, call.topic, "" if call.caller.id == self.own_id else str(call.caller),
                call.correlation_id, call.attempt, call.headers, call.deadline.at, body, end, now,
            )  # fmt: skip
        except Closed:
            raise lost(call, False, self.peer_name, self._why) from None
        except CallError as error:
            raise type(error)(
                str(error), peer=self.peer_name, topic=call.topic, correlation_id=call.correlation_id
            ) from None

    async def _open_late(self, call: Call, body: Buffer | None, end: bool) -> Stream:
        """Waits for room, as long as the call's deadline allows."""
        while True:
            turn: asyncio.Future[None] = self.loop.create_future()
            self._roomers.append(turn)
            self.wake()
            try:
                async with asyncio.timeout(call.deadline.remaining):
                    await turn
            except TimeoutError:
                raise too_late(call, self.peer_name) from None
            finally:
                if not turn.done():
                    turn.cancel()
                elif not turn.cancelled() and self._roomers and self.session.over:
                    wake(self._roomers.popleft())
            if (stream := self._open(call, body, end)) is not None:
                return stream
