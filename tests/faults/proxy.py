"""A TCP proxy on loopback whose network fails when it is told to.

    pass       what comes goes on
    held       nothing goes on, nothing is lost: it all arrives once the network is mended
    silent     half-open: connections stay, every byte is swallowed; those connections stay dead after mending
    cut        connections are closed, new ones too, at once
    reset      as cut, but with RST instead of FIN

``delay_s`` slows each piece down, `corrupt_next` flips one bit of the next piece.  The proxy ends its tasks and sockets
with its block.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class Network(Enum):
    """What happens to bytes."""

    PASS = "pass"
    HELD = "held"
    SILENT = "silent"
    CUT = "cut"
    RESET = "reset"


class Direction(Enum):
    """Which way a piece goes."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Proxy:
    """Listens on ``port`` and forwards to the target; an async context manager."""

    def __init__(self, target: int, *, port: int = 0) -> None:
        self.port = port
        self.delay_s = 0.0
        self.connections = 0
        """How many were accepted so far."""
        self._target = target
        self._network = Network.PASS
        self._changed = asyncio.Event()
        self._ended = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._dead: set[asyncio.StreamWriter] = set()
        self._accepted: set[asyncio.Task[None]] = set()
        self._corrupt: dict[Direction, int] = {}
        self._on_piece: Callable[[Direction, bytes], None] | None = None

    def set(self, network: Network) -> None:
        """Changes the network for every connection, now."""
        self._network = network
        if network is Network.SILENT:
            self._dead |= self._writers
        if network in (Network.CUT, Network.RESET):
            for writer in self._writers:
                _end(writer, reset=network is Network.RESET)
        self._changed.set()
        self._changed = asyncio.Event()

    def mend(self) -> None:
        """Everything goes on from here."""
        self.set(Network.PASS)

    def break_connections(self, *, reset: bool = False) -> None:
        """Ends the connections that exist; new ones work."""
        for writer in self._writers:
            _end(writer, reset=reset)

    def corrupt_next(self, direction: Direction, *, at_least: int = 1) -> None:
        """Flips one bit in the middle of the next piece of that size or more."""
        self._corrupt[direction] = at_least

    def watch(self, seen: Callable[[Direction, bytes], None] | None) -> None:
        """Calls ``seen`` with each piece before it goes on: the moment at which a test may strike."""
        self._on_piece = seen

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)
        self.connections += 1
        if self._network in (Network.CUT, Network.RESET) or self._ended:
            _end(writer, reset=self._network is Network.RESET)
            return
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, asyncio.CancelledError):
            _end(writer, reset=True)
            return
        self._writers |= {writer, onward}
        if self._network is Network.SILENT:
            self._dead |= {writer, onward}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, onward, Direction.TO_SERVER))
                group.create_task(self._forward(onward_reader, writer, Direction.TO_CLIENT))
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio's streams would report a cancelled task as an error
        finally:
            for one in (writer, onward):
                self._writers.discard(one)
                self._dead.discard(one)
                one.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        try:
            while piece := await reader.read(_PIECE):
                if self._on_piece is not None:
                    self._on_piece(way, piece)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                while self._network is Network.HELD:
                    await self._changed.wait()
                if writer in self._dead:
                    continue
                if len(piece) >= self._corrupt.get(way, len(piece) + 1):
                    del self._corrupt[way]
                    piece = _flipped(piece)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        if writer not in self._dead:
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._ended = True
        self._server.close()
        await asyncio.sleep(0)  # what the loop had accepted before begins, and ends
        for task in self._accepted:
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        endpoint = writer.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


def _flipped(piece: bytes) -> bytes:
    damaged = bytearray(piece)
    damaged[len(damaged) // 2] ^= 0x10
    return bytes(damaged)
