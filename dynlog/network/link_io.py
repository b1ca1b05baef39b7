"""What carries a session in an event loop: channels come and go, what is ready leaves when the loop comes round.

One timer per session; frames are handed to the session and its events to `dispatch`, in the order in which they came.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from dynlog.network.session import Session
from dynlog.network.session_events import Event
from dynlog.record import Buffer
from dynlog.wire import Channel

FLUSH_AT, FLUSH_AT_MOST = 16, 64
"""What a round of the loop makes ready leaves in pieces of about so many records, more if more is under way: both ends
are at work at once, and a write is still cheap beside what it carries."""
TAKE_BYTES = 256 << 10
"""What is handed to a channel at once before it is asked whether it has room."""


class Port:
    """The receiver of one channel."""

    __slots__ = ("channel", "generation", "link")

    def __init__(self, link: LinkIo, generation: int, channel: Channel) -> None:
        self.link, self.generation, self.channel = link, generation, channel

    def frames_received(self, frames: Sequence[Buffer]) -> None:
        self.link.frames_received(self.generation, frames)

    def writable(self) -> None:
        self.link.channel_writable(self.generation)

    def channel_lost(self, error: Exception | None) -> None:
        self.link.channel_lost(self.generation, error)


class LinkIo(ABC):
    """The moving parts of a `Link`: ports, writes, the timer."""

    def __init__(self, session: Session) -> None:
        self.loop = asyncio.get_running_loop()
        self.session = session
        self.ports: dict[int, Port] = {}
        self._port: Port | None = None
        self._generation = 0
        self._writable = False
        self._scheduled = False
        self._ready = 0
        self.flush_at = FLUSH_AT
        self._flushers: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @abstractmethod
    def dispatch(self, events: Sequence[Event]) -> None:
        """Tells whoever it concerns."""

    @abstractmethod
    def detached(self, generation: int, error: Exception | None) -> None:
        """That channel is gone; ``error`` says why."""

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

    @property
    def carried(self) -> bool:
        """Whether a channel carries the session, which is not over."""
        return self._port is not None and not self.session.over

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
        self.detached(generation, error)

    # The work of each round of the loop.

    def wake(self) -> None:
        """What is ready leaves when the loop comes round; of much, a part leaves before, so that the peer may begin."""
        self._ready += 1
        if self._ready >= self.flush_at:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._come_round)

    async def flushed(self) -> None:
        """Returns once all that was ready has been handed to a channel; forever, while there is none."""
        while not self.session.over and (self.session.wants_write or self._port is None):
            self.flush()
            if self.session.wants_write or self._port is None:
                turn: asyncio.Future[None] = self.loop.create_future()
                self._flushers.append(turn)
                await turn

    def _come_round(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """What is ready leaves now, as far as the channel takes it."""
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
        if self._flushers and (session.over or not session.wants_write):
            self._tell_flushers()

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
        self.flush()

    def _tell_flushers(self) -> None:
        flushers, self._flushers = self._flushers, []
        for turn in flushers:
            if not turn.done():
                turn.set_result(None)

    def attach(self, generation: int) -> Port:
        """That channel carries the session from now on."""
        self._port, self._writable = self.ports[generation], True
        return self._port

    def release(self, generation: int) -> None:
        """The session has no further use for that channel."""
        if (port := self.ports.get(generation)) is not None:
            port.channel.close()

    def drop(self, generation: int, error: Exception) -> None:
        """That channel brought what is no session's, or nothing at all."""
        if (port := self.ports.pop(generation, None)) is not None:
            if self._port is port:
                self._port = None
            port.channel.abort()
            self.detached(generation, error)

    def end(self) -> None:
        """The session is over: its last word leaves on whatever carried it."""
        if self._port is not None and self.session.wants_write:
            self._port.channel.send(self.session.take(TAKE_BYTES))
        self._port = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for port in list(self.ports.values()):
            port.channel.close()
        self._tell_flushers()
