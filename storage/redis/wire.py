"""A connection in the hands of its lane: commands go straight to the transport, replies straight to who waits for them.

redis-py makes the connection (address, TLS, password), and from then on it is read here: a reply is resolved in the
very turn of the event loop in which its bytes came, while a stream reader wakes a task for each line of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from redis import exceptions

from dynlog.prompt import Prompt, go_on
from dynlog.storage.redis.link import Link
from dynlog.storage.redis.vigil import Vigil

LATE_S = 2.0
"""A reply that is this late makes a connection suspect."""
STALL_S = 15.0
"""A connection on which a reply is this late is given up, whatever a new one says."""
Argument = str | bytes | int
Command = Sequence["Argument | Head"]
"""A `Head` comes first, if there is one."""
RUN = b"\0run"
"""An argument in whose place goes, when the command leaves, which run of the server it goes to, and whether what that
acknowledges is on its disk: ``<run> <0 or 1>``.  A command may be composed before its connection is made anew."""
_LINE, _ERROR, _NUMBER, _BYTES, _ARRAY = b"+-:$*"


class Broken(Exception):
    """The connection broke after the command had left and before its reply came."""


class Call:
    """A command under way; ``reply`` resolves once."""

    __slots__ = ("command", "reply", "sent", "size")

    def __init__(self, command: Command, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.command, self.size = command, size
        self.reply: Prompt[Any] = Prompt(loop)
        self.sent = False

    @property
    def blocks(self) -> bool:
        """Whether the server may take its time over it."""
        return self.command[0] == "WAIT"


class Wire(asyncio.Protocol):
    """One connection and the calls under way on it, the oldest first.

    ``moved`` is set when nothing is under way any more, after `turn` replies, and at the end.  ``late`` is told of
    replies that do not come, ``lost`` of the end, with what was wrong if anything was under way.
    """

    def __init__(
        self,
        link: Link,
        moved: asyncio.Event,
        late: Callable[[Wire], None],
        lost: Callable[[Wire, str | None], None],
    ) -> None:
        """Takes the connection from redis-py, which forgets it."""
        connection = link.connection
        reader, writer = connection._reader, connection._writer
        assert reader is not None
        assert writer is not None
        connection._reader = connection._writer = None
        self._error_of: Callable[[str], BaseException] = connection._parser.parse_error
        self._writer = writer  # it closes the transport when nobody holds it any more
        self._transport = writer.transport
        self._where = f"{link.facts.run} {int(link.facts.strong)}".encode()
        self._loop = asyncio.get_running_loop()
        self._moved, self._late, self._lost = moved, late, lost
        self._under_way: deque[Call] = deque()
        self._answered_at = 0.0
        self._vigil = Vigil()
        self._watch: asyncio.TimerHandle | None = None
        self._chunks: list[bytes] = []
        self._missing = 0  # bytes, before it is worth a look what the chunks are
        self._arrays: list[tuple[list[Any], int]] = []  # those that are not whole yet, and how many each shall have
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._turn = 0
        self._settled: list[Prompt[Any]] = []  # whoever waits for these goes on once all that came is read
        self.alive = True
        self._transport.set_protocol(self)
        if reader.at_eof():
            self._loop.call_soon(self.connection_lost, None)

    @property
    def under_way(self) -> int:
        """How many calls have left and are not answered."""
        return len(self._under_way)

    @property
    def idle(self) -> bool:
        """Whether a command would go out at once, alone."""
        return self.alive and not self._under_way and self._flowing.is_set()

    @property
    def blocks(self) -> bool:
        """Whether the server may take its time over something that is under way."""
        return any(call.blocks for call in self._under_way)

    @property
    def is_late(self) -> bool:
        """Whether a reply should have come long since."""
        return bool(self._under_way) and self._loop.time() - self._answered_at >= LATE_S

    def send(self, calls: Sequence[Call]) -> None:
        """Sends the commands; they are answered in this order."""
        packed = b"".join([_packed(call.command, self._where) for call in calls])
        if not self._under_way:
            self._answered_at = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_at(self._answered_at + LATE_S, self._look)
        lone = len(calls) == 1 and not self._under_way
        for call in calls:
            call.sent = True
        self._under_way += calls
        self._transport.write(packed)
        if lone:
            self._vigil.begin()

    async def turn(self, replies: int) -> None:
        """Waits for so many replies, or the end, and until what was sent is on its way."""
        self._turn = replies
        while self._turn > 0 and self._under_way:
            self._moved.clear()
            await self._moved.wait()
        await self._flowing.wait()

    def end(self, error: BaseException) -> None:
        """Closes it without waiting for the server; what is under way is told that error."""
        if not self.alive:
            return
        self.alive = False
        calls, self._under_way = self._under_way, deque()
        fail(calls, error)
        if self._watch is not None:
            self._watch.cancel()
        self._writer.close()
        self._flowing.set()
        self._moved.set()
        self._lost(self, str(error) if calls else None)

    def _look(self) -> None:
        """One timer for all replies: mostly those that were due have come long since."""
        self._watch = None
        if not self._under_way:
            return
        now = self._loop.time()
        if now - self._answered_at >= STALL_S:
            self.end(Broken(f"no reply for {STALL_S:g} s"))
            return
        if self.is_late and not self.blocks:
            self._late(self)
        if self.alive:
            again = max(self._answered_at + LATE_S, now + LATE_S / 4)
            self._watch = self._loop.call_at(min(again, self._answered_at + STALL_S), self._look)

    # What the transport says

    def data_received(self, data: bytes) -> None:
        try:
            self._parse(data)
        except (ValueError, exceptions.RedisError) as error:
            self.end(Broken(str(error)))
        if self._settled:
            go_on(self._settled)

    def connection_lost(self, error: Exception | None) -> None:
        self.end(Broken(str(error) if error is not None else "the server closed the connection"))

    def pause_writing(self) -> None:
        self._flowing.clear()

    def resume_writing(self) -> None:
        self._flowing.set()

    def _parse(self, data: bytes) -> None:
        """Takes what came; ValueError if it is no Redis's, and redis-py's errors for replies that end a connection."""
        if self._chunks:
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        at, end = 0, len(data)
        while at < end:
            stop = data.find(b"\r\n", at)
            if stop < 0:
                self._keep(data, at, 1)
                return
            kind, text = data[at], data[at + 1 : stop]
            value: Any
            if kind == _LINE:
                value = text
            elif kind == _BYTES and text != b"-1":
                begin, stop = stop + 2, stop + 2 + _length(text)
                if stop + 2 > end:
                    self._keep(data, at, stop + 2 - end)
                    return
                value = data[begin:stop]
            elif kind == _NUMBER:
                value = int(text)
            elif kind == _ARRAY and text != b"-1":
                value = []
                if length := _length(text):
                    self._arrays.append((value, length))
                    at = stop + 2
                    continue
            elif kind == _ERROR:
                value = self._error_of(text.decode(errors="replace"))
                if isinstance(value, exceptions.ConnectionError):
                    raise value
            elif kind in (_BYTES, _ARRAY):
                value = None
            else:
                raise ValueError(f"what listens there is no Redis: it said {data[at:stop]!r:.80}")
            at = stop + 2
            while self._arrays:
                items, length = self._arrays[-1]
                items.append(value)
                if len(items) < length:
                    break
                value = items
                self._arrays.pop()
            else:
                self._answer(value)

    def _keep(self, data: bytes, at: int, missing: int) -> None:
        self._chunks.append(data[at:])
        self._missing = missing

    def _answer(self, value: Any) -> None:
        if not self._under_way:
            if self.alive:
                self.end(Broken(f"it said {value!r:.80} unasked"))
            return
        call = self._under_way.popleft()
        self._answered_at = self._loop.time()
        self._vigil.end()
        if not call.reply.done():
            if isinstance(value, exceptions.RedisError):
                call.reply.set_exception(value)
            else:
                call.reply.settle(value)
                self._settled.append(call.reply)
        self._turn -= 1
        if not (self._turn and self._under_way):
            self._moved.set()


def fail(calls: Sequence[Call] | deque[Call], error: BaseException) -> None:
    """Tells the callers that error."""
    for call in calls:
        if not call.reply.done():
            call.reply.set_exception(error)
            call.reply.exception()  # whoever waits gets it; nobody waiting is not worth a warning


def _length(text: bytes) -> int:
    length = int(text)
    if length < 0:
        raise ValueError(f"a reply of length {length}")
    return length


class Head:
    """The first arguments of a command, packed before: those of a script and its keys are the same each time."""

    __slots__ = ("arguments", "packed")

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self.packed, self.arguments = _arguments(arguments, b""), len(arguments)


def _packed(command: Command, where: bytes) -> bytes:
    """The command in Redis's protocol (redis-py's own packing takes three times as long)."""
    head = command[0]
    if isinstance(head, Head):
        rest = cast("Sequence[Argument]", command[1:])
        return b"*%d\r\n%b%b" % (head.arguments + len(rest), head.packed, _arguments(rest, where))
    return b"*%d\r\n%b" % (len(command), _arguments(cast("Sequence[Argument]", command), where))


def _arguments(arguments: Sequence[Argument], where: bytes) -> bytes:
    pieces: list[bytes] = []
    for part in arguments:
        if part is RUN:
            part = where
        elif not isinstance(part, bytes):
            part = part.encode() if isinstance(part, str) else b"%d" % part
        pieces.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(pieces)
