"""Plain ZMQ sockets under asyncio: wait until one of several can be read, then read without blocking.

``zmq.asyncio`` makes a future per message; this waits once per burst.  A ZMQ file descriptor only says that *something*
happened inside the library, so the sockets' own EVENTS are asked before and after waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

BURST = 128
"""Messages read from one socket before the others, and the event loop, have their turn."""
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


async def wait_readable(sockets: Sequence[zmq.Socket[bytes]], timeout: float | None) -> None:
    """Returns once one of the sockets may have a message, or after ``timeout`` seconds; cancellable, leaves nothing."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    descriptors = [int(socket.getsockopt(zmq.FD)) for socket in sockets]
    for descriptor in descriptors:
        loop.add_reader(descriptor, woken.set)
    try:
        if not any(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN for socket in sockets):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await woken.wait()
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)


def receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The frames of the next message, or None if there is none yet."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def monitor(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A socket that tells of its connections, to be made before it connects; see `connection_changes`."""
    return socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | _LOST)


def connection_changes(monitor: zmq.Socket[bytes]) -> Iterator[bool]:
    """True for each time that the other end was reached, False for each time that it was lost."""
    while int(monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        yield recv_monitor_message(monitor, zmq.NOBLOCK)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED


def harden(socket: zmq.Socket[bytes], *, heartbeat_s: float, receive_hwm: int) -> None:
    """Heartbeats (a peer that vanished without a word is noticed), a bounded queue, and no lingering at close."""
    interval = max(int(heartbeat_s * 1000), 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, receive_hwm)
    socket.setsockopt(zmq.HEARTBEAT_IVL, interval)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * interval)
    socket.setsockopt(zmq.HEARTBEAT_TTL, min(3 * interval, 6_000_000))
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
