"""A client of NATS is closed, whatever nats-py was about to do, and only who was cancelled hears of a cancellation.

A close while nats-py waits for the end of a broken connection, before it connects anew, cancels that wait, and with it
the future for which the close itself then waits: nats-py raises CancelledError at a caller whom nobody cancelled.  On
asyncio's own loop that wait takes a turn, on uvloop some.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.aio.client import Client

from dynlog.tasks import ended

HANG_UP_S = 5.0
"""How long a server may take for the goodbye."""


async def hung_up(client: Client, timeout: float = HANG_UP_S) -> None:
    """Closes the client within ``timeout`` seconds; what the server makes of it is nobody's business."""
    closing = asyncio.create_task(client.close(), name="dynlog-nats-hang-up")
    try:
        await asyncio.wait([closing], timeout=timeout)
    finally:
        closing.cancel()
        await ended(closing)
    failure = None if closing.cancelled() else closing.exception()
    if failure is not None and not isinstance(failure, nats.errors.Error | OSError | TimeoutError):
        raise failure
