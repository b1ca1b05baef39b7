"""The strangers' suite on every wire that has a door, and what only streams can show."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from dynlog.adapters.wires.stream import PREFACE
from dynlog.call_errors import WireBroken, WireUnavailable
from tests.wires.stranger_suite import Speak, StrangerSuite
from tests.wires.wire_backend import PATIENCE_S, body


class StreamSuite(StrangerSuite):
    """What a peer can do that speaks the framing but does not keep to it."""

    async def test_a_cut_within_a_frame_is_told_and_its_part_is_not_given(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            reader, writer = await self.raw(place.listener.address)
            await reader.readexactly(len(PREFACE))
            writer.write(PREFACE + struct.pack("<II", 3, 0 if self.scheme == "uds" else 0xB5CE3D8C) + b"123")
            writer.write(struct.pack("<II", 1000, 0) + b"only so much")
            await writer.drain()
            await asyncio.wait_for(place.accepted.wait(), PATIENCE_S)
            writer.close()
            await writer.wait_closed()
            (box,) = place.boxes
            error = await box.ended()
            assert isinstance(error, WireBroken)
            assert b"only so much" not in b"".join(box.frames)

    async def test_a_peer_that_wants_no_more_and_reads_nothing_keeps_no_channel(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            reader, writer = await self.raw(place.listener.address)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(PREFACE)
            await asyncio.wait_for(place.accepted.wait(), PATIENCE_S)
            (box,) = place.boxes
            assert box.channel is not None
            for _ in range(200):
                box.channel.send([(bytes(100_000),)])
            writer.write_eof()
            assert isinstance(await box.ended(), WireBroken)
            writer.transport.abort()

    async def test_a_peer_that_says_no_goodbye_is_not_waited_for_long(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            reader, writer = await self.raw(place.listener.address)
            writer.write(PREFACE)
            await asyncio.wait_for(place.accepted.wait(), PATIENCE_S)
            (box,) = place.boxes
            assert box.channel is not None
            box.channel.send([(body(1),)])
            begun = asyncio.get_running_loop().time()
            box.channel.close()
            assert await box.ended() is None
            assert asyncio.get_running_loop().time() - begun < 3
            said = await reader.read()
            assert body(1) in said
            assert said.endswith(b"\xff\xff\xff\xff\0\0\0\0")
            writer.close()
            await writer.wait_closed()


class TestUdsStrangers(StreamSuite):
    scheme = "uds"

    named = "listens"

    def address(self, tmp_path: Path) -> str:
        return f"uds://{tmp_path}/{self.named}"

    nowhere = address

    async def serve(self, tmp_path: Path, come: Speak) -> tuple[asyncio.Server, str]:
        address = self.address(tmp_path)
        return await asyncio.start_unix_server(come, address.removeprefix("uds://")), address

    async def raw(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(address.removeprefix("uds://"))

    async def test_a_socket_that_a_killed_listener_left_is_taken_over(self, tmp_path: Path) -> None:
        path = tmp_path / self.named
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(str(path))
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"taken over",)])
            assert await ends.far_box.has(1) == [b"taken over"]
        assert not path.exists()

    async def test_a_file_that_is_no_socket_is_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / self.named
        path.write_text("precious", encoding="utf-8")
        with pytest.raises(WireUnavailable, match="no socket"):
            async with self.place(tmp_path):
                pass
        assert path.read_text(encoding="utf-8") == "precious"

    async def test_only_its_owner_may_dial_a_socket(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            path = place.listener.address.removeprefix("uds://")
            assert os.stat(path).st_mode & 0o777 == 0o600  # noqa: PTH116


class TestTcpStrangers(StreamSuite):
    scheme = "tcp"

    def address(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:0"

    def nowhere(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:1"


class TestTlsStrangers(StrangerSuite):
    scheme = "tcp"

    @pytest.fixture(autouse=True)
    def _certificates(self, certificates: Path) -> None:
        self.folder = certificates

    def address(self, tmp_path: Path) -> str:
        return f"tcp://127.0.0.1:0?cert={self.folder}/server.crt&key={self.folder}/server.key"

    def dialled(self, address: str) -> str:
        return f"{address}?ca={self.folder}/ca.crt"

    def nowhere(self, tmp_path: Path) -> str:
        return f"tcp://127.0.0.1:1?ca={self.folder}/ca.crt"


class TestZmqStrangers(StrangerSuite):
    scheme = "zmq"

    def address(self, tmp_path: Path) -> str:
        return "zmq://127.0.0.1:0"

    def nowhere(self, tmp_path: Path) -> str:
        return "zmq://127.0.0.1:1"


class TestSseStrangers(StrangerSuite):
    scheme = "sse"

    def address(self, tmp_path: Path) -> str:
        return "sse://127.0.0.1:0/dynlog"

    def nowhere(self, tmp_path: Path) -> str:
        return "sse://127.0.0.1:1/dynlog"


class TestNatsStrangers(StrangerSuite):
    scheme = "nats"
    listens = False

    def address(self, tmp_path: Path) -> str:
        raise AssertionError("no scenario listens")

    def nowhere(self, tmp_path: Path) -> str:
        return "nats://127.0.0.1:1/dynlog.nowhere"
