"""The server under the router's HTTP service: uvicorn, with a bound on everything that a client can take its time for.

* A request that is not entirely in `REQUEST_S` after its first byte (or after the connection was made) is cut off, with
  408 where no answer has begun.
* A client that takes nothing of its answer for `STALL_S` is cut off.
* Ending stops accepting, lets answers under way finish for `GRACE_S`, and cuts off the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dynlog.errors import ConfigurationError
from dynlog.router.http_errors import problem_body
from dynlog.tasks import until_started

REQUEST_S = 20.0
STALL_S = 20.0
IDLE_S = 75
"""A connection without a request is kept so long: longer than load balancers keep theirs, so that they end it first."""
GRACE_S = 8
MAX_CONNECTIONS = 1000
MAX_HEAD_BYTES = 32 * 1024


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 connection, which by itself waits for ever for a head, a body or a reader."""

    request_s = REQUEST_S
    stall_s = STALL_S
    _request: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request = self.loop.call_later(self.request_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request(begun=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The beginning of the next request may have come before the answer to this one was complete.
        self._watch_request(begun=bool(self.conn.trailing_data[0]))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_request_timer()
        self._end_stall_timer()
        super().connection_lost(exc)

    def _watch_request(self, *, begun: bool) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._end_request_timer()
        elif begun and self._request is None:
            self._request = self.loop.call_later(self.request_s, self._too_slow)

    def _end_request_timer(self) -> None:
        if self._request is not None:
            self._request.cancel()
            self._request = None

    def _end_stall_timer(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _too_slow(self) -> None:
        self._request = None
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = problem_body(f"the request was not complete within {self.request_s:g} s")
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, but signals belong to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: str) -> socket.socket:
    """A socket that listens at ``HOST:PORT`` (``[::1]:8080`` for IPv6; port 0 takes a free one).

    Raises ConfigurationError saying why it cannot.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"--listen {address!r}: HOST:PORT is needed, as in 127.0.0.1:8080 or [::1]:8080")
    try:
        family, kind, proto, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        # With its protocol named, or asyncio does not switch Nagle's algorithm off and each answer waits 40 ms.
        opened = socket.socket(family, kind, proto)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(where)
            opened.listen(512)
            opened.setblocking(False)
        except BaseException:
            opened.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen at {address}: {why}; choose another address") from None
    return opened


def url_of(listening: socket.socket) -> str:
    """The URL at which the socket listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serving(
    app: Any, listening: socket.socket, *, protocol: type[GuardedProtocol] = GuardedProtocol
) -> AsyncIterator[None]:
    """Answers requests at the socket, which it closes, until the end of the block; then ends as the module says.

    Raises what `until_started` raises.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients do wrong is counted, not logged
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listening]), name="dynlog-http")
    try:
        await until_started(server, task, f"the router's HTTP server at {url_of(listening)}")
        yield
    finally:
        server.should_exit = True
        try:
            if not task.cancelled():  # as it is if it did not start
                await task
        finally:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
            listening.close()
