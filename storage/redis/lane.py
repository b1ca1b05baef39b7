"""A lane is one connection that many tasks share: what queued meanwhile goes out as one pipeline.

So many small appends cost one write and one fsync of the server together, and while replies are read the server
already works on what their readers sent next.  A command that comes alone leaves at once, in its caller's own turn of
the event loop.  **A cancelled caller poisons nothing**: its command is skipped if it has not left yet, else its reply
is read and dropped.  A connection that breaks is given up; each command that had left is told `Broken`, the others wait
for the next connection.  One whose replies are late is compared with a new one: if that is answered the old one is dead
(half-open), else the server is slow and is waited for, `STALL_S` at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from dynlog.errors import Closed, ConfigurationError, DynlogError, LogUnavailable
from dynlog.storage.redis.link import Link
from dynlog.storage.redis.wire import LATE_S, Broken, Call, Command, Wire, fail
from dynlog.tasks import ended
from dynlog.timing import Backoff

GRACE_S = 1.0
"""How long `Lane.close` waits for what is under way."""
MOST_QUEUED = 16_384
MOST_COMMANDS = 256
"""At most so many commands, and bytes, leave at once."""
MOST_BYTES = 4 << 20
TOPPED_UP = 16
"""After so many replies their readers get a turn, and what they send next leaves: client and server work at once."""


class Lane:
    """One shared connection, made when it is needed and made anew when it broke."""

    def __init__(self, connect: Callable[[], Awaitable[Link]]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Call] = deque()
        self._wire: Wire | None = None
        self._spare: Wire | None = None
        self._pump: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self._working = False  # what is queued is under way, or is about to be
        self._stale = False
        self._closed = False
        self.trouble: DynlogError | None = None
        """Why there is no connection now."""

    def submit(self, command: Command, size: int = 0) -> Call:
        """Sends or queues a command; commands submitted one after the other leave one after the other.

        Raises Closed, LogUnavailable if too many wait already.
        """
        if self._closed:
            raise Closed("the log was closed")
        call = Call(command, size, self._loop)
        wire = self._wire
        if not self._working and wire is not None and wire.idle and not self._stale and not call.blocks:
            wire.send((call,))
            return call
        if len(self._queue) >= MOST_QUEUED:
            self._forget_abandoned()
            if len(self._queue) >= MOST_QUEUED:
                raise LogUnavailable(f"{MOST_QUEUED} commands wait for the server already: send fewer at once")
        self._queue.append(call)
        self._working = True
        self._wanted.set()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run(), name="dynlog-redis-lane")
        return call

    def adopt(self, link: Link) -> None:
        """Takes over a connection that was made elsewhere; only before the first command."""
        self._wire = self._taken(link)

    def renew(self) -> None:
        """Has the next command go over a new connection, since what was learnt with this one is no longer true."""
        self._stale = True

    async def close(self, grace: float = GRACE_S) -> None:
        """Waits for what is under way, at most a grace; whatever is left is told Closed."""
        self._closed = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace if self._wire is not None else 0):
                    while self._working or (self._wire is not None and self._wire.under_way):
                        self._moved.clear()
                        await self._moved.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        tasks = [task for task in (self._pump, self._probe) if task is not None]
        for task in tasks:
            task.cancel()
        try:
            await ended(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            closed = Closed("the log was closed")
            fail(self._queue, closed)
            self._queue.clear()
            for wire in (self._wire, self._spare):
                if wire is not None:
                    wire.end(closed)

    def _taken(self, link: Link) -> Wire:
        return Wire(link, self._moved, self._suspect, self._lost)

    async def _run(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await self._work()
                self._working = False
                self._moved.set()
        except BaseException:
            if self._wire is not None:
                self._wire.end(Closed("the log was closed"))
            raise

    async def _work(self) -> None:
        """Until nothing is queued."""
        waits = iter(Backoff(first=0.02, most=0.5))
        while self._queue:
            if self._stale and self._wire is not None:
                await self._wire.turn(self._wire.under_way)
                self._stale = False
                self._give_up()
            if self._wire is None:
                self._wire, self._spare = self._spare, None
            if self._wire is None:
                try:
                    self._wire = self._taken(await self._connect())
                except ConfigurationError as error:
                    self.trouble = error
                    fail(self._queue, error)
                    self._queue.clear()
                    return
                except DynlogError as error:
                    self.trouble = error
                    await asyncio.sleep(next(waits))
                    self._forget_abandoned()
                    continue
                self.trouble = None
                waits = iter(Backoff(first=0.02, most=0.5))
            await self._exchange(self._wire)

    def _forget_abandoned(self) -> None:
        """Drops the commands that nobody waits for any more."""
        self._queue = deque(call for call in self._queue if not call.reply.done())

    def _take(self, most: int = MOST_COMMANDS, *, stop_at_blocking: bool = False) -> list[Call]:
        """What goes out next: everything queued, within bounds, whose caller is still there."""
        batch: list[Call] = []
        size = 0
        while self._queue and len(batch) < most and (not batch or size + self._queue[0].size <= MOST_BYTES):
            if stop_at_blocking and self._queue[0].blocks:
                break
            call = self._queue.popleft()
            if not call.reply.done():
                batch.append(call)
                size += call.size
        return batch

    async def _exchange(self, wire: Wire) -> None:
        """Sends what is queued, and what is queued while its replies come, until all of it is answered."""
        self._send(wire, self._take())
        while wire.under_way:
            await wire.turn(max(1, min(TOPPED_UP, wire.under_way // 2)))
            if wire.under_way:
                await asyncio.sleep(0)
                if wire.under_way and not (wire.blocks or self._stale or self._closed):
                    self._send(wire, self._take(MOST_COMMANDS - wire.under_way, stop_at_blocking=True))

    @staticmethod
    def _send(wire: Wire, calls: list[Call]) -> None:
        if not calls:
            return
        try:
            wire.send(calls)
        except Exception as error:  # a command that cannot be packed, say
            wire.end(Broken(str(error)))
            fail(calls, Broken(str(error)))

    def _lost(self, wire: Wire, why: str | None) -> None:
        """A connection has ended."""
        if wire is self._spare:
            self._spare = None
        if wire is self._wire:
            self._wire = None
            if why is not None:
                self.trouble = LogUnavailable(f"the connection broke: {why}")

    def _give_up(self) -> None:
        if self._wire is not None:
            self._wire.end(Broken("it was given up"))

    def _suspect(self, wire: Wire) -> None:
        """Has a connection compared with a new one, since its replies are late."""
        if self._closed or self._wire is not wire:
            return
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._compare(wire), name="dynlog-redis-probe")

    async def _compare(self, wire: Wire) -> None:
        """As long as the replies are late: ends the connection once a new one was answered."""
        while self._wire is wire and wire.is_late:
            try:
                spare = self._taken(await self._connect())
            except DynlogError:
                await asyncio.sleep(LATE_S / 4)
                continue
            if self._wire is wire and wire.is_late and self._spare is None:
                self._spare = spare
                wire.end(Broken("a new connection was answered, this one was not"))
            else:
                spare.end(Closed("it is not needed"))
            return
