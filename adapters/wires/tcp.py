"""``tcp://host:port``: frames over TCP, each with a CRC-32C, since TCP's own checksum lets one error in 65,536 pass.

Options of the address: ``cert`` and ``key`` (files) make a listener speak TLS, ``ca`` (a file) makes a dialler do so
and verify; ``cert`` and ``key`` of a dialler are shown to a listener whose ``ca`` asks for them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from dynlog.adapters.wires.sockets import OpenChannels, StreamListener
from dynlog.adapters.wires.stream import StreamChannel
from dynlog.adapters.wires.tls import BACKLOG, TlsListener, tls_context
from dynlog.call_errors import WireUnavailable
from dynlog.errors import ConfigurationError
from dynlog.url import Url, parse_url
from dynlog.wire import Accept, Channel, Receiver


class TcpWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._open = OpenChannels("tcp")
        self._listeners: list[StreamListener | TlsListener] = []

    async def listen(self, address: str, accept: Accept) -> StreamListener | TlsListener:
        self._open.check()
        url = _parsed(address)
        context = tls_context(url, serving=True)

        def accepted() -> StreamChannel:
            return _TcpChannel("tcp", "a dialler", accept, self._open, checked=True)

        try:
            server = await asyncio.get_running_loop().create_server(
                accepted, url.host, url.port, backlog=BACKLOG, start_serving=context is None
            )
            host = f"[{url.host}]" if ":" in url.host else url.host
            place = f"tcp://{host}:{server.sockets[0].getsockname()[1]}"
            listener: StreamListener | TlsListener = StreamListener(place, server)
            if context is not None:
                listener = TlsListener(place, server, context, accepted)
        except OSError as error:
            raise WireUnavailable(f"{url} cannot be listened at: {error.strerror or error}") from None
        self._listeners.append(listener)
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> StreamChannel:
        url = _parsed(address)
        if not url.port:
            raise ConfigurationError(f"{url}: a port from 1 to 65535 is needed to dial")
        context = tls_context(url, serving=False)
        make = partial(_TcpChannel, "tcp", f"tcp://{url.host}:{url.port}", receiver, self._open, checked=True)
        dial = partial(
            asyncio.get_running_loop().create_connection, host=url.host, port=url.port, ssl=context,
            server_hostname=url.host if context else None,
        )  # fmt: skip
        return await self._open.dial(str(url), make, dial, timeout)

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        await self._open.close()


class _TcpChannel(StreamChannel):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (name := transport.get_extra_info("peername")) and self.peer == "a dialler":
            self.peer = f"tcp://{name[0]}:{name[1]}"
        if (limit := getattr(transport, "set_read_buffer_limits", None)) is not None:
            # uvloop's TLS drops what a paused reader has not taken as soon as it reads that the peer has ended.
            limit(high=1)
        super().connection_made(transport)


def make_wire() -> TcpWire:
    """A wire over TCP."""
    return TcpWire()


def _parsed(address: str) -> Url:
    url = parse_url(address)
    if url.scheme != "tcp" or not url.host or url.port is None or url.path.strip("/") or url.user:
        raise ConfigurationError(f"{url} is no address of this wire: tcp://host:port is")
    return url
