"""The dialling side of ``sse://``: a GET brings events and POSTs take packets, each made again when it fails.

A GET that is cut goes on behind the last event that came; a POST is repeated under its number until it is answered.
Only if that does not work for a while is the channel over.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error
from collections import deque
from collections.abc import Callable

import httpx

from dynlog.adapters.wires.packets import PacketChannel, read_packet
from dynlog.adapters.wires.sse_server import HEARTBEAT_S, MAX_PACKET_BYTES, MAX_POST_BYTES, RESUME_S
from dynlog.call_errors import ProtocolError, WireUnavailable
from dynlog.tasks import end_task
from dynlog.timing import Backoff, Deadline
from dynlog.wire import Channel, Receiver

MAX_LINE_BYTES = 2 * MAX_PACKET_BYTES
QUIET_S = 3 * HEARTBEAT_S
"""A GET that brought not even a comment for so long is taken for dead."""


class DialledChannel:
    """A channel that was dialled, and the two tasks that carry it."""

    def __init__(self, client: httpx.AsyncClient, base: str, peer: str, everybody: dict[DialledChannel, None]) -> None:
        self.packets = PacketChannel("sse", peer, MAX_PACKET_BYTES, self._transmit, self._ended)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client, self._base, self._peer, self._everybody = client, base, peer, everybody
        self._name = ""
        self._event = 0
        self._posts = 0
        self._out: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._last: Exception | None = None

    async def open(self) -> None:
        """Asks for a channel; raises WireUnavailable."""
        try:
            answer = await self._client.post(f"{self._base}/open")
        except httpx.HTTPError as error:
            raise WireUnavailable(f"{self._peer} cannot be reached: {error or type(error).__name__}") from None
        if answer.status_code != 201 or not answer.text.isprintable() or len(answer.text) > 200:
            raise WireUnavailable(
                f"{self._peer} answered {answer.status_code}: no dynlog listens there, or it takes no channels"
            )
        self._name = answer.text

    def begin(self, receiver: Callable[[Channel], Receiver]) -> None:
        """From here on the channel carries."""
        self.packets.begin(receiver)
        self._everybody[self] = None
        self._working = asyncio.create_task(self._work(), name=f"dynlog-sse {self._peer}")

    async def _work(self) -> None:
        reading = asyncio.create_task(self._read(), name=f"dynlog-sse-read {self._peer}")
        try:
            await self._write()
        finally:
            try:
                await end_task(reading)
            finally:
                await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._client.aclose()
        finally:
            self._everybody.pop(self, None)
            if not self.finished.done():
                self.finished.set_result(None)

    def _transmit(self, packet: bytes) -> None:
        self._out.append(packet)
        self._more.set()

    def _ended(self, _: PacketChannel) -> None:
        self._more.set()

    async def _write(self) -> None:
        """Posts what there is to post; ends once the channel is over and its last word has left."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._out:
                body, size = [], 0
                while self._out and size + 4 + len(self._out[0]) <= MAX_POST_BYTES:
                    packet = self._out.popleft()
                    body += [len(packet).to_bytes(4, "little"), packet]
                    size += 4 + len(packet)
                self._posts += 1
                if not await self._post(b"".join(body)):
                    return
            if self.packets.over.done():
                return

    async def _post(self, body: bytes) -> bool:
        """Whether the post was taken; if not the channel is over."""
        deadline = Deadline(1.0 if self.packets.over.done() else RESUME_S)
        for pause in Backoff():
            why = ""
            try:
                answer = await self._client.post(
                    f"{self._base}/{self._name}?n={self._posts}", content=body,
                    headers={"last-event-id": str(self._event)}, timeout=min(QUIET_S, deadline.remaining + 0.1),
                )  # fmt: skip
                if answer.status_code == 204:
                    return True
                if answer.status_code in (400, 404, 409, 410, 413):
                    self.packets.broke(f"the other end answered {answer.status_code} {answer.text[:100]}")
                    return False
                why = f"a proxy answered {answer.status_code}"
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            if deadline.remaining <= pause:
                self.packets.broke(f"nothing could be posted for {RESUME_S:g} s: {why}")
                return False
            await asyncio.sleep(pause)
        raise AssertionError("a backoff has no end")

    async def _read(self) -> None:
        deadline, pauses = Deadline(RESUME_S), iter(Backoff())
        while not self.packets.over.done():
            why = "its events ended"
            try:
                headers = {"last-event-id": str(self._event), "accept": "text/event-stream"}
                timeout = httpx.Timeout(QUIET_S, connect=QUIET_S)
                url = f"{self._base}/{self._name}"
                async with self._client.stream("GET", url, headers=headers, timeout=timeout) as answer:
                    if answer.status_code in (404, 410):
                        self.packets.broke(f"the other end answered {answer.status_code}: the channel is over there")
                        return
                    if answer.status_code == 200:
                        before = self._event
                        await self._events(answer)
                        if self._event > before:
                            deadline, pauses = Deadline(RESUME_S), iter(Backoff())
                    else:
                        why = f"a proxy answered {answer.status_code}"
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            except ProtocolError as error:
                self.packets.broke(str(error))
                return
            if deadline.passed:
                self.packets.broke(f"its events could not be had for {RESUME_S:g} s: {why}")
                return
            await asyncio.sleep(next(pauses))

    async def _events(self, answer: httpx.Response) -> None:
        """Takes events until the response ends."""
        rest, number = b"", 0
        async for piece in answer.aiter_raw():
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if len(rest) > MAX_LINE_BYTES:
                raise ProtocolError(f"an event of more than {MAX_LINE_BYTES} bytes")
            for line in lines:
                if line.startswith(b"id: "):
                    if not line[4:].isdigit():
                        raise ProtocolError(f"an event with the id {line[4:40]!r}")
                    number = int(line[4:])
                elif line.startswith(b"data: "):
                    self._take(number, line[6:])
                    if self.packets.over.done():
                        return

    def _take(self, number: int, data: bytes) -> None:
        if number <= self._event:
            return  # it came on the request before
        if number != self._event + 1:
            raise ProtocolError(f"event {number} came after {self._event}")
        try:
            packet = read_packet(b64decode(data, validate=True))
        except Base64Error as error:
            raise ProtocolError(f"event {number} is no base64: {error}") from None
        self._event = number
        self.packets.received(packet)
