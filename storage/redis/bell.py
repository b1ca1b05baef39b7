"""How a read at the end waits: one connection per handle hears of every partition that somebody waits for.

Each append's script publishes the end that it made.  A wait first makes sure that its channel is heard, then reads,
then waits for a higher end than it read; so no append falls between, nothing is polled, and an idle wait costs a PING
every few seconds.  **When the connection breaks every wait is woken** and reads for itself.

Publish and subscribe, not XREAD BLOCK: one connection serves any number of partitions and of cancelled waits without
being interrupted, and a deleted topic can be announced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Connection
from redis.exceptions import RedisError

from dynlog.errors import Closed, LogUnavailable
from dynlog.storage.redis.link import Link
from dynlog.tasks import ended

PING_EVERY_S = 3.0
"""A connection that is silent for this long is asked, and given up if it says nothing for as long again."""
UNHEARD = 8
"""A channel is left after so many messages in a row for which nobody waited."""

_logger = logging.getLogger("dynlog.redis")


@dataclass(slots=True, eq=False)
class Channel:
    """What was heard of one partition; ``news`` is set anew for every wait."""

    name: str
    end: int = -1
    gone: bool = False
    lost: bool = False
    unheard: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: set[asyncio.Event] = field(default_factory=set)

    def wake(self) -> None:
        """Wakes everyone who waits here."""
        for event in self.waiting:
            event.set()


class Bell:
    """The channels of one handle."""

    def __init__(self, connect: Callable[[], Awaitable[Link]]) -> None:
        self._connect = connect
        self._channels: dict[str, Channel] = {}
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._given = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._closed = False

    def start(self) -> None:
        """Begins; connects once somebody listens."""
        self._task = asyncio.create_task(self._serve(), name="dynlog-redis-bell")

    async def listen(self, name: str) -> Channel:
        """The channel, heard from now on; raises what connecting raises, Closed."""
        channel = self._channels.get(name)
        if channel is None or channel.lost or not channel.heard.is_set():
            async with self._connecting:
                link = await self._linked()
                channel = self._channels.get(name)
                if channel is None or channel.lost:
                    channel = self._channels[name] = Channel(name)
                    await self._say(link.connection, "SUBSCRIBE", name)
            await channel.heard.wait()
        if self._closed:
            raise Closed("the log was closed")
        return channel

    async def wait(self, channel: Channel, end: int, until: float) -> bool:
        """Waits for a higher end, for "gone" or for a broken connection; False if the time was over first."""
        channel.unheard = 0
        event = asyncio.Event()
        channel.waiting.add(event)
        try:
            async with asyncio.timeout_at(until) as limit:
                while not (channel.end > end or channel.gone or channel.lost):
                    event.clear()
                    await event.wait()
            return True
        except TimeoutError:
            if not limit.expired():  # the loop's time may be before it: uvloop's timers count whole milliseconds
                raise
            return False
        finally:
            channel.waiting.discard(event)

    async def close(self) -> None:
        """Wakes every wait and leaves no connection behind."""
        self._closed = True
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cancel()
                await ended(task)
        finally:
            self._lose()
            link, self._link = self._link, None
            if link is not None:
                await link.drop()

    async def _linked(self) -> Link:
        if self._closed:
            raise Closed("the log was closed")
        if self._link is None:
            link = await self._connect()
            if self._closed:
                await link.drop()
                raise Closed("the log was closed")
            self._link = link
            self._given.set()
        return self._link

    async def _say(self, connection: Connection, *command: str) -> None:
        async with self._writing:
            try:
                await connection.send_packed_command(connection.pack_command(*command), check_health=False)
            except (RedisError, OSError) as error:
                raise LogUnavailable(f"the connection broke: {error}") from error

    async def _serve(self) -> None:
        while True:
            await self._given.wait()
            self._given.clear()
            if self._link is not None:
                await self._hear(self._link)

    async def _hear(self, link: Link) -> None:
        """Takes messages until the connection breaks or falls silent."""
        connection = link.connection
        asked = False
        try:
            while True:
                # With a timeout of its own a read returns None, and what came of a message by then is kept.
                message = await connection.read_response(disable_decoding=True, timeout=PING_EVERY_S)
                if message is None:
                    if asked:
                        return
                    await self._say(connection, "PING")
                asked = message is None
                name = None if message is None else self._take(message)
                if name is not None:
                    await self._say(connection, "UNSUBSCRIBE", name)
        except Exception:
            # Whatever it was, this connection is given up and every wait reads for itself.
            _logger.debug("a connection that waits for news broke", exc_info=True)
        finally:
            self._link = None
            self._lose()
            await link.drop()

    def _take(self, message: Any) -> str | None:
        """Notes a message; the name of a channel that nobody waits for any more."""
        kind, name = message[0], str(message[1].decode())
        channel = self._channels.get(name)
        if channel is None:
            return None
        if kind == b"subscribe":
            channel.heard.set()
        elif kind == b"unsubscribe":
            # It was asked for again while the server was told to stop: whoever waits begins anew.
            self._forget(channel)
        elif kind == b"message":
            if message[2] == b"gone":
                channel.gone = True
            else:
                channel.end = max(channel.end, int(message[2]))
            channel.unheard = 0 if channel.waiting else channel.unheard + 1
            channel.wake()
            if channel.gone or channel.unheard > UNHEARD:
                self._forget(channel)
                return name
        return None

    def _forget(self, channel: Channel) -> None:
        del self._channels[channel.name]
        channel.lost = True
        channel.heard.set()
        channel.wake()

    def _lose(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.lost = True
            channel.heard.set()
            channel.wake()
