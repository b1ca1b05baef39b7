"""The listening side of ``sse://``: a small ASGI application whose channels outlive the requests that carry them.

    POST PREFIX/open          -> 201, the channel's secret name as text
    GET  PREFIX/NAME          -> text/event-stream: each event is a packet in base64; Last-Event-ID resumes
    POST PREFIX/NAME?n=N      packets, each behind its length (u32); N counts the posts, so one that is repeated is
                              known: 204 taken (or taken before), 409 a post is missing, 404 no such channel

An event is kept until the client has said that it came (``Last-Event-ID`` on its posts and gets).  A channel that no
request has asked for in a while is over.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from dynlog.adapters.wires.packets import LINGER_S, Kind, PacketChannel, read_packet
from dynlog.call_errors import ProtocolError
from dynlog.wire import Accept

MAX_PACKET_BYTES = 256 << 10
MAX_POST_BYTES = 1 << 20
MAX_KEPT = 2048
"""Events that a client has not said to have: a window of packets and as many acknowledgements, with room to spare."""
HEARTBEAT_S = 5.0
"""A comment as often as this keeps a reverse proxy from taking a quiet stream for a dead one."""
RESUME_S = 15.0
"""How long a channel is kept while nobody listens to its events."""
MAX_CHANNELS = 4096

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class SseApp:
    """The channels of one listener, as an ASGI application."""

    def __init__(self, address: str, prefix: str, accept: Accept) -> None:
        self.channels: dict[str, ServedChannel] = {}
        self.open = True
        self.idle: Callable[[], None] = lambda: None
        """Called once the last channel is over of a listener that was closed."""
        self._address, self._prefix, self._accept = address, prefix.rstrip("/"), accept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        name = path.removeprefix(self._prefix + "/") if path.startswith(self._prefix + "/") else ""
        channel = self.channels.get(name)
        headers = dict(scope["headers"])
        if scope["method"] == "POST" and name == "open":
            await self._begin(send)
        elif channel is None:
            await _answer(send, 404, b"no such channel")
        elif (came := _number(headers.get(b"last-event-id", b"0"))) is None:
            await _answer(send, 400, b"Last-Event-ID is no number")
        elif scope["method"] == "GET":
            channel.came(came)
            await channel.stream(came, receive, send)
        elif scope["method"] == "POST":
            channel.came(came)
            query = parse_qs(scope["query_string"].decode("ascii", "replace"))
            await self._post(channel, _number(query.get("n", [""])[0].encode()), receive, send)
        else:
            await _answer(send, 405, b"GET or POST")

    async def _begin(self, send: Send) -> None:
        if not self.open or len(self.channels) >= MAX_CHANNELS:
            await _answer(send, 503, b"no further channels are taken")
            return
        name = secrets.token_urlsafe(24)
        channel = self.channels[name] = ServedChannel(self._address, lambda: self._forget(name))
        channel.packets.begin(self._accept)
        await _answer(send, 201, name.encode())

    def _forget(self, name: str) -> None:
        self.channels.pop(name, None)
        if not self.open and not self.channels:
            self.idle()

    async def _post(self, channel: ServedChannel, number: int | None, receive: Receive, send: Send) -> None:
        pieces, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client went away in the middle: it comes again, whole
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > MAX_POST_BYTES:
                await _answer(send, 413, b"too large")
                return
            if not message.get("more_body"):
                break
        if number is None:
            await _answer(send, 400, b"n is no number")
        elif number > channel.posts + 1:
            await _answer(send, 409, b"a post before this one is missing")
        else:
            if number == channel.posts + 1:
                channel.posts = number
                channel.take(b"".join(pieces))
            await _answer(send, 204, b"")


class ServedChannel:
    """One channel of the application."""

    def __init__(self, peer: str, forget: Callable[[], object]) -> None:
        self.posts = 0
        """The number of the last post that was taken."""
        self.packets = PacketChannel("sse", peer, MAX_PACKET_BYTES, self._transmit, self._ended)
        self._forget = forget
        self._events: deque[bytes] = deque()
        self._first = 1
        """The id of the first event that is kept."""
        self._more = asyncio.Event()
        self._listeners = 0
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(RESUME_S, self._abandoned)

    def came(self, event: int) -> None:
        """The client has all events up to that one."""
        while self._events and self._first <= event:
            self._events.popleft()
            self._first += 1

    def take(self, body: bytes) -> None:
        """What a post brought."""
        at = 0
        try:
            while at < len(body):
                size = int.from_bytes(body[at : at + 4], "little")
                if at + 4 + size > len(body):
                    raise ProtocolError(f"a packet of {size} bytes is announced and {len(body) - at - 4} are there")
                packet = read_packet(body[at + 4 : at + 4 + size])
                at += 4 + size
                self.packets.received(packet)
                if packet.kind == Kind.BYE and self._over:
                    self.free()  # nobody comes for its last word
                    self._forget()
        except ProtocolError as error:
            self.packets.broke(str(error))

    async def stream(self, came: int, receive: Receive, send: Send) -> None:
        """Events from the one after ``came`` on, until the client goes or the channel is over."""
        if came + 1 < self._first:
            await _answer(send, 410, b"events before these are gone")
            return
        self._listeners += 1
        turn = self._listeners
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
            following = came + 1
            # A later request for the same events takes over from an earlier one that is half dead.
            while turn == self._listeners and not gone.done():
                events = []
                while following < self._first + len(self._events):
                    events.append(b"id: %d\ndata: %s\n\n" % (following, self._events[following - self._first]))
                    following += 1
                if events:
                    await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
                    continue
                if self._over:
                    break
                self._more.clear()
                waiting = asyncio.ensure_future(self._more.wait())
                await asyncio.wait({waiting, gone}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    if not gone.done():
                        await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            if turn == self._listeners and not self._over:
                self._timer = self._loop.call_later(RESUME_S, self._abandoned)
            elif turn == self._listeners:
                self._forget()

    def _transmit(self, packet: bytes) -> None:
        if len(self._events) >= MAX_KEPT:
            self._loop.call_soon(
                self.packets.broke, f"{MAX_KEPT} events wait for a client that says of none that it came"
            )
            return
        self._events.append(b64encode(packet))
        self._more.set()

    def free(self) -> None:
        """Nothing is waited for any longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _abandoned(self) -> None:
        self._timer = None
        self.packets.broke(f"nobody asked for its events for {RESUME_S:g} s")
        self._forget()

    def _ended(self, _: PacketChannel) -> None:
        self._over = True
        self._more.set()
        # Its last word waits for a client that is just coming back.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(LINGER_S, self._forget)


_STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


async def _gone(receive: Receive) -> None:
    """Returns once the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"text/plain"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers if status != 204 else headers[2:]})
    await send({"type": "http.response.body", "body": body})


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 20 else None
