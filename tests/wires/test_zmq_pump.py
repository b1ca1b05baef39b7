"""What a ZMQ socket brings is read also if the notice of it was swallowed."""

from __future__ import annotations

import asyncio
import socket

import pytest
import zmq

from dynlog.adapters.wires.zmq_pump import Pump
from tests.wires.wire_backend import PATIENCE_S


class Swallowing:
    """A ROUTER: as it fails to send to somebody who has gone it takes in a message, and its descriptor says nothing."""

    def __init__(self) -> None:
        self.quiet, self._other = socket.socketpair()
        self.messages: list[list[bytes]] = []

    def getsockopt(self, option: int) -> int:
        return self.quiet.fileno()

    def send_multipart(self, parts: list[bytes], flags: int) -> None:
        self.messages.append([b"somebody", b"hello"])
        raise zmq.ZMQError(zmq.EHOSTUNREACH)

    def recv_multipart(self, flags: int) -> list[bytes]:
        if not self.messages:
            raise zmq.Again
        return self.messages.pop()

    def close(self) -> None:
        self.quiet.close()
        self._other.close()


async def test_a_message_that_comes_while_a_send_fails_is_read() -> None:
    came = asyncio.Event()
    pump = Pump(Swallowing(), lambda parts: came.set())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(zmq.ZMQError):
        pump.send([b"gone", b"hello"])
    async with asyncio.timeout(PATIENCE_S):
        await came.wait()
    pump.close()
