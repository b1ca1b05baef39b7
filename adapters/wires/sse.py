"""``sse://host:port/prefix``: frames over HTTP/1.1, server-sent events one way and POSTs the other.

The way for peers that reach each other through reverse proxies alone.  With ``tls=1`` (or ``ca=FILE``) a
dialler speaks HTTPS, to the proxy that ends it: the listener itself speaks HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

import httpx
import uvicorn

from dynlog.adapters.wires.packets import LINGER_S, PacketChannel
from dynlog.adapters.wires.sse_client import DialledChannel
from dynlog.adapters.wires.sse_server import SseApp
from dynlog.call_errors import WireUnavailable
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded
from dynlog.tasks import until_started
from dynlog.url import Url, parse_url, read_options
from dynlog.wire import Accept, Channel, Receiver

KEEP_ALIVE_S = 75
_UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP: httpx reads the system's certificates for every client that is not given a context, 20 ms each."""

_HEADERS = {"accept-encoding": "identity"}
"""A proxy that compresses holds events back until it has enough of them."""


class SseWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._listeners: list[SseListener] = []
        self._dialled: dict[DialledChannel, None] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._closed = False

    async def listen(self, address: str, accept: Accept) -> SseListener:
        self._check()
        url = _parsed(address)
        bound = socket.socket(
            socket.AF_INET6 if ":" in url.host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((url.host, url.port or 0))
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise WireUnavailable(f"{url} cannot be listened at: {error.strerror or error}") from None
        place = f"sse://{_host(url)}:{bound.getsockname()[1]}{url.path.rstrip('/')}"
        listener = SseListener(place, bound, SseApp(place, url.path, accept))
        try:
            await listener.start()
        except BaseException:
            await listener.end()
            raise
        self._listeners.append(listener)
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> PacketChannel:
        self._check()
        url = _parsed(address)
        if not url.port:
            raise ConfigurationError(f"{url}: a port from 1 to 65535 is needed to dial")
        # A client of its own: connections of an earlier channel may be half open, and would be taken from its pool.
        scheme, client = self._client(url)
        base = f"{scheme}://{_host(url)}:{url.port}{url.path.rstrip('/')}"
        dialled = DialledChannel(client, base, str(url), self._dialled)
        try:
            async with asyncio.timeout(timeout):
                await dialled.open()
            self._check()
        except BaseException as error:
            await client.aclose()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"{timeout:g} s were not enough to reach {url}: does a dynlog listen?") from None
            raise
        dialled.begin(receiver)
        return dialled.packets

    def _client(self, url: Url) -> tuple[str, httpx.AsyncClient]:
        options = read_options(url, {"tls": str, "ca": str})
        if not options:
            return "http", httpx.AsyncClient(verify=_UNUSED, trust_env=False, headers=_HEADERS)
        authority = options.get("ca", "")
        if authority not in self._contexts:
            self._contexts[authority] = ssl.create_default_context(cafile=authority or None)
        return "https", httpx.AsyncClient(verify=self._contexts[authority], trust_env=False, headers=_HEADERS)

    def _check(self) -> None:
        if self._closed:
            raise Closed("the wire sse:// was closed")

    async def close(self) -> None:
        self._closed = True
        for dialled in list(self._dialled):
            dialled.packets.close()
        if self._dialled:
            await asyncio.wait([dialled.finished for dialled in self._dialled], timeout=LINGER_S)
        for listener in self._listeners:
            await listener.close()
        for listener in self._listeners:
            await listener.end()
        for dialled in list(self._dialled):
            dialled.packets.abort()
            await asyncio.wait([dialled.finished], timeout=LINGER_S)


class SseListener:
    """A uvicorn server with the application of its channels."""

    def __init__(self, address: str, bound: socket.socket, app: SseApp) -> None:
        self.address = address
        self._bound, self._app = bound, app
        self._server = _Server(
            uvicorn.Config(
                app, ws="none", lifespan="off", log_config=None, log_level="error", access_log=False,
                server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once it answers."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._bound]), name=f"dynlog-sse {self.address}")
        await until_started(self._server, self._task, f"the HTTP server at {self.address}", WireUnavailable)

    async def close(self) -> None:
        # The requests of channels that go on come by the same port: it stays taken until they are over.
        self._app.open = False
        self._app.idle = self._stop
        if not self._app.channels:
            await self.end()

    async def end(self) -> None:
        """Closes every channel and gives the port back."""
        if self._task is None:
            return
        overs = []
        for channel in list(self._app.channels.values()):
            channel.packets.close()
            overs.append(channel.packets.over)
        if overs:
            await asyncio.wait(overs, timeout=LINGER_S)
        for channel in list(self._app.channels.values()):
            channel.free()
        task, self._task = self._task, None
        self._stop()
        try:
            if not task.cancelled():  # as it is if it did not start
                await task
        finally:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
            self._bound.close()

    def _stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server, but signals belong to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_wire() -> SseWire:
    """A wire over HTTP."""
    return SseWire()


def _host(url: Url) -> str:
    return f"[{url.host}]" if ":" in url.host else url.host


def _parsed(address: str) -> Url:
    url = parse_url(address)
    read_options(url, {"tls": str, "ca": str})
    if url.scheme != "sse" or not url.host or url.port is None or url.user:
        raise ConfigurationError(f"{url} is no address of this wire: sse://host:port/prefix is")
    return url
