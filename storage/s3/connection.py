"""A blocking HTTP exchange that another thread can end at any moment: its socket is shut down under it.

So a thread that waits for a server which has stopped answering is free as soon as nobody waits for its result.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 120.0
"""A server that says nothing for so long in the middle of an answer is gone, whatever deadline the caller has."""

P = ParamSpec("P")
T = TypeVar("T")


class Aborted(Exception):
    """The exchange was ended from outside; whoever ended it does not wait for this."""


class Exchange:
    """A request and the reading of its answer, each step of which is `run` in some thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; connections that it uses belong to this exchange until `release`."""
        _PRESENT.exchange = self
        try:
            return function(*args, **kwargs)
        finally:
            _PRESENT.exchange = None

    def hold(self, connected: socket.socket | None) -> None:
        """The exchange goes over this socket from now on."""
        with self._lock:
            if self._aborted:
                raise Aborted
            self._socket = connected

    def release(self) -> None:
        """The socket may serve others."""
        with self._lock:
            self._socket = None

    def abort(self) -> None:
        """Ends whatever waits on the socket; harmless after `release`."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):
                    # Not the method of SSLSocket: that would unwrap what the other thread is reading.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Present(threading.local):
    exchange: Exchange | None = None


_PRESENT = _Present()


class _Held:
    """Tells the present exchange which socket it goes over; mixed into urllib3's connections."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._tell()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._tell()  # one that was kept open
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _tell(self) -> None:
        if _PRESENT.exchange is not None:
            _PRESENT.exchange.hold(self.sock)


class _Plain(_Held, HTTPConnection):
    pass


class _Secure(_Held, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def connections(size: int, authorities: Path | None) -> urllib3.PoolManager:
    """A pool that keeps up to ``size`` idle connections; nothing in it tries again by itself."""
    manager = urllib3.PoolManager(
        num_pools=4, maxsize=size, retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=SILENCE_S),
        ssl_context=ssl.create_default_context(cafile=authorities),
    )  # fmt: skip
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager
