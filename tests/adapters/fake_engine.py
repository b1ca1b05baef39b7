"""An engine's KV event publisher as formats.md describes it: PUB with sequences, ROUTER with a bounded replay buffer.

It is an XPUB, so that a test can wait for a subscriber instead of sleeping.  What `publish` does not ``send`` is in the
replay buffer only, as if the network had lost it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

from dynlog.adapters.zmq_wait import receive, wait_readable

END = b"\xff" * 8
_CLOCK = itertools.count(1)  # no two batches have the same ts


def stored(*blocks: int, parent: int | None = None, block_size: int = 4, **fields: Any) -> dict[str, Any]:
    """A BlockStored event as vLLM 0.33 writes it; the tokens are made from the hashes."""
    tokens = [(block + at) % 50_000 for block in blocks for at in range(block_size)]
    return {
        "type": "BlockStored", "block_hashes": list(blocks), "parent_block_hash": parent, "token_ids": tokens,
        "block_size": block_size, "lora_id": None, "medium": "GPU", "lora_name": None,
    } | fields  # fmt: skip


def removed(*blocks: int) -> dict[str, Any]:
    """A BlockRemoved event."""
    return {"type": "BlockRemoved", "block_hashes": list(blocks), "medium": "GPU"}


class FakeEngine:
    """One engine at fixed ports; entering binds them, leaving is the engine's death."""

    def __init__(
        self,
        port: int,
        replay_port: int | None = None,
        *,
        buffer: int = 10_000,
        old_shape: bool = False,
        rank: int = 0,
        send_hwm: int = 100_000,
    ) -> None:
        self._port = port
        self._replay_port = replay_port
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer)
        self._old_shape = old_shape
        self._rank = rank
        self._send_hwm = send_hwm
        self.sequence = 0
        self.overflowed = 0
        self.replays: list[int] = []

    async def __aenter__(self) -> Self:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pub: zmq.Socket[bytes] = self._context.socket(zmq.XPUB)
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._pub.setsockopt(zmq.SNDHWM, self._send_hwm)
        self._pub.setsockopt(zmq.XPUB_NODROP, 1)  # it drops all the same, but tells us
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._serving: asyncio.Task[None] | None = None
        try:
            await _bind(self._pub, self._port)
            if self._replay_port is not None:
                await _bind(self._router, self._replay_port)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        if self._replay_port is not None:
            self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._context.destroy(linger=0)

    async def subscribed(self) -> None:
        """Waits until the next subscription arrived."""
        async with asyncio.timeout(20):
            while (frames := receive(self._pub)) is None or not frames[0].startswith(b"\x01"):
                await wait_readable([self._pub], 1)

    def publish(self, *events: Any, send: bool = True) -> int:
        """Publishes one batch and returns its sequence."""
        payload: bytes = msgpack.packb([next(_CLOCK) / 8, list(events), self._rank])
        return self.publish_payload(payload, send=send)

    def publish_payload(self, payload: bytes, *, send: bool = True) -> int:
        """Publishes bytes as they are."""
        sequence = self.sequence
        self.sequence += 1
        self._buffer.append((sequence, payload))
        if send:
            self.send(sequence, payload)
        return sequence

    def send(self, sequence: int, payload: bytes) -> None:
        """Sends a live message only; one for which there is no room is dropped, as PUB does, and counted."""
        try:
            self._pub.send_multipart([b"kv", sequence.to_bytes(8, "big"), payload], zmq.NOBLOCK)
        except zmq.Again:
            self.overflowed += 1

    def send_again(self) -> None:
        """Sends the last batch once more, as a duplicate."""
        self.send(*self._buffer[-1])

    async def _serve(self) -> None:
        while True:
            frames = receive(self._router)
            if frames is None:
                await wait_readable([self._router], None)
                continue
            client, empty, start = frames
            assert empty == b""
            self.replays.append(int.from_bytes(start, "big"))
            for sequence, payload in list(self._buffer):
                if sequence >= self.replays[-1]:
                    self._router.send_multipart(self._reply(client, sequence.to_bytes(8, "big"), payload))
            self._router.send_multipart(self._reply(client, END, b""))

    def _reply(self, client: bytes, sequence: bytes, payload: bytes) -> list[bytes]:
        if self._old_shape:
            return [client, b"", sequence, payload]
        return [client, b"", b"" if sequence == END else b"kv", sequence, payload]


async def _bind(socket: zmq.Socket[bytes], port: int) -> None:
    """Binds, once the operating system has given the port of a predecessor free."""
    async with asyncio.timeout(20):
        while True:
            try:
                socket.bind(f"tcp://127.0.0.1:{port}")
                return
            except zmq.ZMQError:
                await asyncio.sleep(0.01)
