"""Wires among strangers: places that are no dynlog, and diallers that are none; nobody waits for them for ever."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dynlog.adapters.wires.stream import PREFACE
from dynlog.call_errors import WireUnavailable
from dynlog.errors import DeadlineExceeded
from dynlog.wire import make_wire
from tests.wires.wire_backend import PATIENCE_S, Box, WireBackend

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GARBAGE = [
    b"\0" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /dynlog/open HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
    b"dynlog\x02\n", PREFACE + b"\xff" * 7 + b"\xfe", PREFACE + (1 << 31).to_bytes(4, "little") + b"\0" * 4,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(range(256)) * 64,
    b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + b"\0" * 48,
]  # fmt: skip


class StrangerSuite(WireBackend):
    listens = True
    """Whether strangers reach the listener itself."""

    def at(self, tmp_path: Path, port: int) -> str:
        """The address of a place at that port."""
        return self.nowhere(tmp_path).replace(":1", f":{port}", 1)

    @asynccontextmanager
    async def stranger(self, tmp_path: Path, speak: Speak) -> AsyncIterator[str]:
        """A server that is no dynlog; its address."""
        tasks: set[asyncio.Task[None]] = set()

        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with suppress(OSError, asyncio.CancelledError):
                await speak(reader, writer)
            writer.close()

        server, address = await self.serve(tmp_path, come)
        try:
            yield address
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def serve(self, tmp_path: Path, come: Speak) -> tuple[asyncio.Server, str]:
        """Listens where the wire would."""
        server = await asyncio.start_server(come, "127.0.0.1", 0)
        return server, self.at(tmp_path, server.sockets[0].getsockname()[1])

    async def raw(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a listener without a wire."""
        host, _, port = address.partition("://")[2].partition("/")[0].rpartition(":")
        return await asyncio.open_connection(host, int(port))

    # Places that are no dynlog.

    async def test_a_place_that_never_answers_is_given_up_at_the_deadline(self, tmp_path: Path) -> None:
        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                pass

        async with self.stranger(tmp_path, deaf) as address:
            wire = make_wire(self.scheme)
            begun = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
                await wire.connect(address, lambda channel: Box(), timeout=0.3)
            assert asyncio.get_running_loop().time() - begun < 2
            await wire.close()

    async def test_a_place_that_hangs_up_is_no_place_to_dial(self, tmp_path: Path) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with self.stranger(tmp_path, hang_up) as address:
            wire = make_wire(self.scheme)
            with pytest.raises(WireUnavailable):
                await wire.connect(address, lambda channel: Box(), timeout=PATIENCE_S)
            await wire.close()

    async def test_a_place_that_speaks_another_language_is_no_place_to_dial(self, tmp_path: Path) -> None:
        async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.com ESMTP Postfix\r\n" * 20)
            while await reader.read(4096):
                writer.write(b"500 what?\r\n")

        async with self.stranger(tmp_path, smtp) as address:
            wire = make_wire(self.scheme)
            with pytest.raises((WireUnavailable, DeadlineExceeded)):
                await wire.connect(address, lambda channel: Box(), timeout=1.0)
            await wire.close()

    async def test_a_port_at_which_nobody_listens_is_known_at_once(self, tmp_path: Path) -> None:
        async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with self.stranger(tmp_path, nothing) as address:
            pass
        wire = make_wire(self.scheme)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(WireUnavailable):
            await wire.connect(address, lambda channel: Box(), timeout=PATIENCE_S)
        await wire.close()
        assert asyncio.get_running_loop().time() - begun < 3

    async def test_a_dial_under_way_ends_with_its_wire(self, tmp_path: Path) -> None:
        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            while await reader.read(4096):
                pass

        reached = asyncio.Event()
        async with self.stranger(tmp_path, deaf) as address:
            wire = make_wire(self.scheme)
            dialling = asyncio.create_task(wire.connect(address, lambda channel: Box(), timeout=1.0))
            await asyncio.wait_for(reached.wait(), PATIENCE_S)
            await wire.close()
            with pytest.raises((WireUnavailable, DeadlineExceeded)):
                await dialling

    # Diallers that are no dynlog.

    async def test_garbage_at_the_door_costs_nothing_and_nobody_is_told_of_it(self, tmp_path: Path) -> None:
        if not self.listens:
            return
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            tracemalloc.start()
            for garbage in GARBAGE:
                _, writer = await self.raw(place.listener.address)
                with suppress(OSError):
                    writer.write(garbage)
                    await writer.drain()
                ends.near.send([(garbage,)])
                await ends.far_box.until(lambda said=garbage: ends.far_box.frames[-1:] == [said])  # type: ignore[misc]
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4 << 20
            again = await place.dial()
            again.near.send([(b"still there",)])
            assert await again.far_box.has(1) == [b"still there"]
            garbled = [box for box in place.boxes if box not in (ends.far_box, again.far_box)]
            assert not any(box.frames for box in garbled)

    async def test_strangers_who_say_nothing_keep_nobody_out_and_do_not_outlive_the_wire(self, tmp_path: Path) -> None:
        if not self.listens:
            return
        async with self.place(tmp_path) as place:
            strangers = [await self.raw(place.listener.address) for _ in range(40)]
            ends = await place.dial()
            ends.near.send([(b"served",)])
            assert await ends.far_box.has(1) == [b"served"]
            begun = asyncio.get_running_loop().time()
            await place.there.close()
            assert asyncio.get_running_loop().time() - begun < 4
            assert await ends.near_box.ended() is None
        for reader, writer in strangers:
            with suppress(OSError):  # it was hung up on
                await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
