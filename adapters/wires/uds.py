"""``uds:///path/of.sock``: frames over a Unix socket, for peers on one host; only its owner may dial it.

A socket file that a killed listener left is taken over; one at which somebody answers is not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from dynlog.adapters.wires.sockets import OpenChannels, StreamListener
from dynlog.adapters.wires.stream import StreamChannel
from dynlog.call_errors import WireUnavailable
from dynlog.errors import ConfigurationError
from dynlog.url import parse_url, read_options
from dynlog.wire import Accept, Channel, Receiver

MAX_PATH_BYTES = 103
"""What macOS allows; Linux allows four more."""


class UdsWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._open = OpenChannels("uds")
        self._listeners: list[StreamListener] = []

    async def listen(self, address: str, accept: Accept) -> StreamListener:
        self._open.check()
        path = _path(address)

        def accepted() -> StreamChannel:
            return StreamChannel("uds", address, accept, self._open, checked=False)

        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _take_over(path)
            bound.bind(str(path))
            path.chmod(0o600)
            place = path.stat()
            server = await asyncio.get_running_loop().create_unix_server(accepted, sock=bound, backlog=1024)
        except OSError as error:
            bound.close()
            raise WireUnavailable(f"{address} cannot be listened at: {error.strerror or error}") from None
        except BaseException:
            bound.close()
            raise
        listener = StreamListener(f"uds://{path}", server, partial(_remove, path, (place.st_dev, place.st_ino)))
        self._listeners.append(listener)
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> StreamChannel:
        path = _path(address)
        make = partial(StreamChannel, "uds", address, receiver, self._open, checked=False)
        dial = partial(asyncio.get_running_loop().create_unix_connection, path=str(path))
        return await self._open.dial(address, make, dial, timeout)

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        await self._open.close()


def make_wire() -> UdsWire:
    """A wire over Unix sockets."""
    return UdsWire()


def _path(address: str) -> Path:
    url = parse_url(address)
    read_options(url, {})
    if url.scheme != "uds" or url.host or not url.path.strip("/"):
        raise ConfigurationError(f"{url} is no address of this wire: uds:///path/of.sock is")
    if len(os.fsencode(url.path)) > MAX_PATH_BYTES:
        raise ConfigurationError(f"{url}: a socket's path has at most {MAX_PATH_BYTES} bytes; choose a shorter one")
    return Path(url.path)


def _take_over(path: Path) -> None:
    """Removes a socket at which nobody listens; raises OSError if somebody does, or if it is something else."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(0, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise OSError(0, "somebody listens there already")


def _remove(path: Path, place: tuple[int, int]) -> None:
    """Removes the socket file unless it is another's by now."""
    with suppress(OSError):
        found = path.stat()
        if (found.st_dev, found.st_ino) == place:
            path.unlink()
