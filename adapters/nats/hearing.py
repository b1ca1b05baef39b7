"""What was said to a NATS server is known to have come there: a subscription listens, what is forbidden was refused.

Whoever asks may give up at any time.  nats-py's own `flush` does not bear that: its reader sets the result of what was
waited for, cancelled or not, and dies of it, and then nothing that the server sends is heard any more.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.aio.client import Client


async def server_has_heard(client: Client, timeout: float = 10.0) -> None:
    """Returns once the server has acted on all that was said to it before; raises what `server_answers` raises.

    One answer does not prove that: nats-py writes its PING at once but leaves commands to a task, so that the PING
    overtakes a SUB before it.  They leave while the first is answered, and the second comes after them.  Each of the
    two answers is waited for ``timeout`` seconds.
    """
    await server_answers(client, timeout)
    await server_answers(client, timeout)


async def server_answers(client: Client, timeout: float = 10.0) -> None:
    """Returns once the server has answered a PING; raises nats.errors.Error, OSError.

    The answer to one that was asked before the connection broke never comes: it is waited for until ``timeout``.
    """
    if client.is_closed:
        raise nats.errors.ConnectionClosedError
    if not client.is_connected:
        raise nats.errors.ConnectionReconnectingError
    pong = _Pong()
    await client._send_ping(pong)
    try:
        async with asyncio.timeout(timeout):
            await pong
    except TimeoutError:
        raise nats.errors.FlushTimeoutError from None


class _Pong(asyncio.Future[bool]):
    """One that nobody waits for any more takes its result all the same."""

    def set_result(self, result: bool) -> None:
        if not self.done():
            super().set_result(result)
