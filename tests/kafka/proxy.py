"""A TCP proxy before one broker whose network fails when told: held passes nothing on, cut closes everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PIECE = 1 << 16


class Proxy:
    """Forwards a port on loopback to another one; its tasks end with `running`."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        """Connections stay open and nothing comes through."""
        self._passing.clear()
        self._answering.clear()

    def hold_answers(self) -> None:
        """What is asked comes through, what is answered does not."""
        self._answering.clear()

    def cut(self) -> None:
        """Every connection ends, and new ones end at once."""
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """The network is whole again; what was held arrives."""
        self._refusing = False
        self._passing.set()
        self._answering.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(
                self._pass(reader, far_writer, self._passing), self._pass(far_reader, writer, self._answering)
            )
        finally:
            self._writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await gate.wait()
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listens for the block."""
        accepted: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._accept(reader, writer))
            accepted.add(task)
            task.add_done_callback(accepted.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", self._port)
        try:
            yield self
        finally:
            server.close()
            for task in accepted:
                task.cancel()
            await asyncio.gather(*accepted, return_exceptions=True)
