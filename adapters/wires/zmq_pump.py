"""A ZMQ socket in an event loop: its descriptor tells once that something came, and any use of it may swallow that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from dynlog.adapters.zmq_wait import BURST

Parts = list[bytes]


class Pump:
    """One ZMQ socket in the loop: reads until there is nothing."""

    def __init__(self, socket: zmq.Socket[bytes], read: Callable[[Parts], None]) -> None:
        self.socket = socket
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._scheduled = False
        self._closed = False
        self._loop.add_reader(self._fd, self._schedule)
        self._schedule()

    def send(self, parts: Parts) -> None:
        """Raises ZMQError if ROUTER knows nobody of that name, or if the peer has no room: it reads nothing."""
        if not self._closed:
            try:
                self.socket.send_multipart(parts, zmq.NOBLOCK)
            finally:
                # Whatever touches the socket may swallow the edge that its descriptor had for a message.
                self._schedule()

    def read(self, most: int) -> bool:
        """Whether all that came was read."""
        for _ in range(most):
            if self._closed:
                break
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._read(parts)
        else:
            return False
        return True

    def close(self) -> None:
        """Closes the socket; what was sent may leave still."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self.socket.close()

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        if not self.read(BURST):
            self._schedule()
