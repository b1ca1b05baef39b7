"""A small TCP proxy on loopback: cuts connections, at once or after so many bytes, and refuses new ones for a while."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards to a port; an async context manager that leaves no task and no socket."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._left: int | None = None
        self._then_refuse = False
        self._answer_to: bytes | None = None
        self.was_cut = asyncio.Event()
        self.forwarded = 0
        self._moments: list[tuple[int, asyncio.Event]] = []

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut_after(self, size: int, *, then_refuse: bool = False) -> None:
        """Cuts all connections once so many more bytes went through, in either direction."""
        self.was_cut.clear()
        self._left = size
        self._then_refuse = then_refuse

    async def after(self, size: int, *, within_s: float) -> None:
        """Waits until so many more bytes went through, in either direction: the moment at which a test may strike.

        Raises TimeoutError if that takes longer: what should have sent them is stuck.
        """
        moment = asyncio.Event()
        self._moments.append((self.forwarded + size, moment))
        async with asyncio.timeout(within_s):
            await moment.wait()

    def cut_answer_to(self, method: str) -> None:
        """Lets the next request by that method through and cuts the connection before its answer."""
        self.was_cut.clear()
        self._answer_to = method.encode()

    def refuse(self) -> None:
        """Cuts all connections and takes no new ones."""
        self._refusing = True
        self._cut()

    def heal(self) -> None:
        """Forwards again."""
        self._refusing = False
        self._left = None

    def _cut(self) -> None:
        for flow in self._flows:
            flow.cancel()
        self.was_cut.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        try:
            if self._refusing:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    asked = asyncio.Event()
                    group.create_task(self._flow(reader, back, asked, request=True))
                    group.create_task(self._flow(there, writer, asked, request=False))
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._flows.discard(task)
            writer.transport.abort()

    async def _flow(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event, *, request: bool
    ) -> None:
        while piece := await reader.read(1 << 16):
            if self._answer_to is not None and request and piece.startswith(self._answer_to):
                asked.set()
            if self._answer_to is not None and not request and asked.is_set():
                self._answer_to = None
                self._cut()
                return
            if self._left is not None:
                self._left -= len(piece)
                if self._left <= 0:
                    self._left = None
                    self._refusing = self._then_refuse
                    self._cut()
                    return
            self.forwarded += len(piece)
            for at, moment in self._moments:
                if self.forwarded >= at:
                    moment.set()
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError("one side closed")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        flows = list(self._flows)
        self._cut()
        await asyncio.gather(*flows, return_exceptions=True)
        await self._server.wait_closed()
