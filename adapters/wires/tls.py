"""TLS for ``tcp://``: the contexts that an address asks for, and a listener that owns its handshakes.

asyncio's own server keeps no hold of a connection whose handshake is not done, so it would outlive the wire.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from dynlog.errors import ConfigurationError
from dynlog.tasks import ended
from dynlog.url import Url, read_options

BACKLOG = 1024
HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 256
"""That are under way at a time; further diallers wait in the kernel's queue."""
_NO_ROOM_S = 0.2


def tls_context(url: Url, *, serving: bool) -> ssl.SSLContext | None:
    """What ``cert``, ``key`` and ``ca`` say, None if nothing; raises ConfigurationError."""
    options = read_options(url, {"cert": str, "key": str, "ca": str})
    if not options:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serving else ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "ca" in options:
            context.load_verify_locations(options["ca"])
            context.verify_mode = ssl.CERT_REQUIRED
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as error:
        raise ConfigurationError(f"{url}: {error.strerror or error}") from None
    if "cert" not in options and (serving or "key" in options):
        raise ConfigurationError(f"{url}: TLS needs cert=, and key= unless the key is in the same file")
    if not serving and "ca" not in options:
        context.load_default_certs()
    return context


class TlsListener:
    """Accepts at the sockets of a server that does not serve; each handshake is a task of its own."""

    def __init__(
        self, address: str, server: asyncio.Server, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol]
    ) -> None:
        self._bound = [one.dup() for one in server.sockets]
        server.close()
        for one in self._bound:
            one.listen(BACKLOG)
        self.address = address
        self._context, self._make = context, make
        self._room = asyncio.Semaphore(MAX_HANDSHAKES)
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = [asyncio.create_task(self._accept(one), name=f"dynlog-tls {address}") for one in self._bound]

    async def _accept(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(bound)
            except OSError:
                self._room.release()
                await asyncio.sleep(_NO_ROOM_S)  # no descriptor is left, say
                continue
            task = asyncio.create_task(self._shake(connection), name=f"dynlog-tls-handshake {self.address}")
            self._handshakes.add(task)
            task.add_done_callback(partial(self._shaken, connection))

    async def _shake(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # a stranger
            await loop.connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
            )

    def _shaken(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            connection.close()  # it may not even have begun
        self._handshakes.discard(task)
        self._room.release()

    async def close(self) -> None:
        """See `dynlog.wire.Listener`; handshakes that are not done are given up."""
        tasks = [*self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        try:
            await ended(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            for one in self._bound:
                one.close()
