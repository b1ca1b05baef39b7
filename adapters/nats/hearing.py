"""What was said to a NATS server is known to have come there: a subscription listens, what is forbidden was refused."""

from __future__ import annotations

from nats.aio.client import Client


async def server_has_heard(client: Client, timeout: int = 10) -> None:
    """Returns once the server has acted on all that was said to it before; raises nats.errors.Error, OSError.

    One flush does not prove that: nats-py writes its PING at once but leaves commands to a task, so that the PING
    overtakes a SUB before it.  They leave while the first is answered, and the second comes after them.  Each of the
    two answers is waited for ``timeout`` seconds.
    """
    await client.flush(timeout)
    await client.flush(timeout)
