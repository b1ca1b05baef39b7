"""A lane is one connection that many tasks share: what queued meanwhile goes out as one pipeline.

So many small appends cost one write and one fsync of the server together, and while replies are read the server
already works on what their readers sent next.  **A cancelled caller poisons nothing**: its
command is skipped if it has not left yet, else its reply is read and dropped.  A connection that breaks is given up;
each command that had left is told `Broken`, the others wait for the next connection.  One whose replies are late is
compared with a new one: if that is answered the old one is dead (half-open), else the server is slow and is waited for,
`STALL_S` at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError, ResponseError

from dynlog.errors import Closed, ConfigurationError, DynlogError, LogUnavailable
from dynlog.storage.redis.link import Link
from dynlog.timing import Backoff

LATE_S = 2.0
"""A reply that is this late makes a connection suspect."""
STALL_S = 15.0
"""A connection on which a reply is this late is given up, whatever a new one says."""
GRACE_S = 1.0
"""How long `Lane.close` waits for what is under way."""
MOST_QUEUED = 16_384
MOST_COMMANDS = 256
"""At most so many commands, and bytes, leave at once."""
MOST_BYTES = 4 << 20
TOPPED_UP = 16
"""After so many replies their readers get a turn, and what they send next leaves: client and server work at once."""
EXCHANGE_S = 0.25
"""An exchange is not topped up for longer, so that between two the connection is looked at."""
Command = Sequence[str | bytes | int]
RUN = b"\0run"
"""An argument in whose place goes, when the command leaves, which run of the server it goes to, and whether what that
acknowledges is on its disk: ``<run> <0 or 1>``.  A command may be composed before its connection is made anew."""


class Broken(Exception):
    """The connection broke after the command had left and before its reply came."""


@dataclass(slots=True, eq=False)
class Call:
    """A command under way; ``reply`` resolves once."""

    command: Command
    size: int
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: bool = False


class Lane:
    """One shared connection, made when it is needed and made anew when it broke."""

    def __init__(self, connect: Callable[[], Awaitable[Link]]) -> None:
        self._connect = connect
        self._queue: deque[Call] = deque()
        self._link: Link | None = None
        self._spare: Link | None = None
        self._pump: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._answered_at = 0.0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stale = False
        self._closed = False
        self.trouble: DynlogError | None = None
        """Why there is no connection now."""

    def submit(self, command: Command, size: int = 0) -> Call:
        """Queues a command; commands submitted one after the other leave one after the other.

        Raises Closed, LogUnavailable if too many wait already.
        """
        if self._closed:
            raise Closed("the log was closed")
        if len(self._queue) >= MOST_QUEUED:
            self._forget_abandoned()
            if len(self._queue) >= MOST_QUEUED:
                raise LogUnavailable(f"{MOST_QUEUED} commands wait for the server already: send fewer at once")
        call = Call(command, size)
        self._queue.append(call)
        self._idle.clear()
        self._wanted.set()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run(), name="dynlog-redis-lane")
        return call

    def adopt(self, link: Link) -> None:
        """Takes over a connection that was made elsewhere; only before the first command."""
        self._link = link

    def renew(self) -> None:
        """Has the next command go over a new connection, since what was learnt with this one is no longer true."""
        self._stale = True

    async def close(self, grace: float = GRACE_S) -> None:
        """Waits for what is under way, at most a grace; whatever is left is told Closed."""
        self._closed = True
        pump, probe = self._pump, self._probe
        if pump is not None:
            if self._link is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await self._idle.wait()
            pump.cancel()
            await asyncio.wait([pump])
        if probe is not None:
            probe.cancel()
            await asyncio.wait([probe])
        self._fail(self._queue, Closed("the log was closed"))
        self._queue.clear()
        for link in (self._link, self._spare):
            if link is not None:
                await link.drop()
        self._link = self._spare = None

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._work()
            self._idle.set()

    async def _work(self) -> None:
        """Until nothing is queued."""
        waits = iter(Backoff(first=0.02, most=0.5))
        while self._queue:
            if self._link is not None and (self._stale or await _is_dead(self._link)):
                self._stale = False
                await self._give_up()
            if self._link is None:
                self._link, self._spare = self._spare, None
            if self._link is None:
                try:
                    self._link = await self._connect()
                except ConfigurationError as error:
                    self.trouble = error
                    self._fail(self._queue, error)
                    self._queue.clear()
                    return
                except DynlogError as error:
                    self.trouble = error
                    await asyncio.sleep(next(waits))
                    self._forget_abandoned()
                    continue
                self.trouble = None
                waits = iter(Backoff(first=0.02, most=0.5))
            await self._exchange(self._link, self._take())

    def _forget_abandoned(self) -> None:
        """Drops the commands that nobody waits for any more."""
        self._queue = deque(call for call in self._queue if not call.reply.done())

    def _take(self, most: int = MOST_COMMANDS, *, stop_at_blocking: bool = False) -> list[Call]:
        """What goes out next: everything queued, within bounds, whose caller is still there."""
        batch: list[Call] = []
        size = 0
        while self._queue and len(batch) < most and (not batch or size + self._queue[0].size <= MOST_BYTES):
            if stop_at_blocking and _blocks(self._queue[0]):
                break
            call = self._queue.popleft()
            if not call.reply.done():
                batch.append(call)
                size += call.size
        return batch

    async def _exchange(self, link: Link, batch: list[Call]) -> None:
        """Sends the batch and reads its replies, and those of what is sent meanwhile."""
        connection = link.connection
        loop = asyncio.get_running_loop()
        now = loop.time
        under_way = deque(batch)
        blocks = any(map(_blocks, batch))
        self._answered_at = extended = now()
        last_top_up = extended + EXCHANGE_S
        suspicion = None if blocks else loop.call_later(LATE_S, self._suspect, link)
        try:
            async with asyncio.timeout(STALL_S) as limit:
                await self._send(link, batch)
                turn = _turn(under_way)
                while under_way:
                    self._answered_at = now()
                    if self._answered_at - extended > LATE_S / 4:
                        extended = self._answered_at
                        limit.reschedule(extended + STALL_S)
                    try:
                        reply = await connection.read_response(disable_decoding=True)
                    except ResponseError as error:
                        if not (call := under_way.popleft()).reply.done():
                            call.reply.set_exception(error)
                    else:
                        if not (call := under_way.popleft()).reply.done():
                            call.reply.set_result(reply)
                    turn -= 1
                    if not turn and under_way:
                        await asyncio.sleep(0)
                        if not (blocks or self._stale or self._closed or self._answered_at > last_top_up):
                            more = self._take(MOST_COMMANDS - len(under_way), stop_at_blocking=True)
                            under_way += more
                            await self._send(link, more)
                        turn = _turn(under_way)
        except Exception as error:  # a spoilt stream makes redis-py's parser raise more than its own errors
            self.trouble = LogUnavailable(f"the connection broke: {str(error) or f'no reply for {STALL_S:g} s'}")
            self._fail(under_way, Broken(str(error) or "no reply"))
            await self._give_up()
        except BaseException:
            self._fail(under_way, Closed("the log was closed"))
            await self._give_up()
            raise
        finally:
            if suspicion is not None:
                suspicion.cancel()

    @staticmethod
    async def _send(link: Link, calls: Sequence[Call]) -> None:
        where = f"{link.facts.run} {int(link.facts.strong)}".encode()
        packed = [_packed(call.command, where) for call in calls]
        for call in calls:
            call.sent = True
        if packed:
            await link.connection.send_packed_command(packed, check_health=False)

    def _suspect(self, link: Link) -> None:
        """Has a connection compared with a new one, if its replies are still late."""
        if self._closed or self._link is not link or not self._is_late():
            return
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._compare(link), name="dynlog-redis-probe")

    def _is_late(self) -> bool:
        return asyncio.get_running_loop().time() - self._answered_at >= LATE_S

    async def _compare(self, link: Link) -> None:
        """As long as the replies are late: drops the connection once a new one was answered."""
        while self._link is link and self._is_late():
            try:
                spare = await self._connect()
            except DynlogError:
                await asyncio.sleep(LATE_S / 4)
                continue
            if self._link is link and self._is_late() and self._spare is None:
                self._spare = spare
                await link.drop()
            else:
                await spare.drop()
            return

    async def _give_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.drop()

    @staticmethod
    def _fail(calls: Sequence[Call] | deque[Call], error: BaseException) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_exception(error)
                call.reply.exception()  # whoever waits gets it; nobody waiting is not worth a warning


def _blocks(call: Call) -> bool:
    """Whether the server may take its time over it."""
    return call.command[0] == "WAIT"


def _turn(under_way: deque[Call]) -> int:
    return max(1, min(TOPPED_UP, len(under_way) // 2))


def _packed(command: Command, where: bytes) -> bytes:
    """The command in Redis's protocol (redis-py's own packing takes three times as long)."""
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        if part is RUN:
            part = where
        elif not isinstance(part, bytes):
            part = part.encode() if isinstance(part, str) else b"%d" % part
        pieces.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(pieces)


async def _is_dead(link: Link) -> bool:
    """Whether the server closed the connection, or said something unasked, since the last reply."""
    # redis-py 8 renamed it; it looks and takes nothing.
    unasked = getattr(link.connection, "can_read", None) or link.connection.can_read_destructive
    with suppress(RedisError, OSError):
        return bool(await unasked())
    return True
