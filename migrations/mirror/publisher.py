"""Publishes in order over one connection that is never mended: what was sent before a break is stored, up to some
message, and nothing behind it is.

A connection that comes back by itself sends what was buffered meanwhile, although what went before it is lost; so this
one ends instead, and whoever holds it begins anew with what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client

from dynlog.adapters.nats.access import NatsAccess, connect
from dynlog.errors import DynlogError, SourceRefused, SourceUnavailable
from dynlog.migrations.mirror.outbound import Outgoing

WINDOW = 256
WINDOW_BYTES = 4 << 20
ACK_S = 15.0
TOO_LARGE = 10054
"""JSStreamMessageExceedsMaximumErr: the stream takes smaller messages only."""
REFUSING = range(400, 500)


class Ack(NamedTuple):
    """A stream took the message; ``sequence`` is 0 where no stream listens and the server itself took it."""

    stream: str
    sequence: int
    duplicate: bool


class MessageRefused(DynlogError):
    """This message does not fit the stream; others may."""


class Publisher:
    """Made by `open_publisher`; sends to streams (``acknowledged``) or to whoever listens."""

    def __init__(self, client: Client, shown: str, *, acknowledged: bool) -> None:
        self._client, self._shown, self._acknowledged = client, shown, acknowledged
        self._inbox = client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Ack]] = {}
        self._window: deque[tuple[asyncio.Future[Ack], int]] = deque()
        self._size = 0
        self._probed = False
        self.max_payload: int = client.max_payload

    async def start(self) -> None:
        """Begins to listen for acknowledgements."""
        if self._acknowledged:
            await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def send(self, message: Outgoing) -> asyncio.Future[Ack]:
        """Sends it, waiting for room, and gives what becomes its acknowledgement.

        The future, and a later `send`, raise MessageRefused (this message alone), SourceRefused, SourceUnavailable.
        """
        while len(self._window) >= (WINDOW if self._probed else 1) or self._size > WINDOW_BYTES:
            await self._oldest()
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        try:
            if self._acknowledged:
                token = str(next(self._numbers))
                self._waiting[token] = future
                await self._client.publish(
                    message.subject, message.payload, reply=f"{self._inbox}.{token}", headers=message.headers
                )
                self._window.append((future, message.size))
                self._size += message.size
            else:
                await self._client.publish(message.subject, message.payload, headers=message.headers)
                future.set_result(Ack("", 0, False))
        except (nats.errors.Error, OSError) as error:
            raise self._broken(error) from None
        return future

    async def flush(self) -> None:
        """Returns once everything that was sent is acknowledged, or its future says why not."""
        while self._window:
            await self._oldest()
        try:
            await self._client.flush(timeout=int(ACK_S))
        except (nats.errors.Error, OSError) as error:
            raise self._broken(error) from None

    async def _oldest(self) -> None:
        """Waits for the oldest that is not acknowledged.  Until the first one is, it goes alone: a stream that is not
        ready yet would refuse one message and take the next."""
        future, size = self._window[0]
        done, _ = await asyncio.wait((future,), timeout=ACK_S)
        if not done:
            raise SourceUnavailable(f"{self._shown} did not acknowledge a message within {ACK_S:g} s")
        self._window.popleft()
        self._size -= size
        if isinstance(error := future.exception(), DynlogError) and not isinstance(error, MessageRefused):
            raise error
        self._probed = True

    async def _answered(self, message: Any) -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        status = (message.headers or {}).get("Status")
        try:
            if status is not None:
                raise SourceUnavailable(f"{self._shown}: no stream answers for the subject (status {status})")
            future.set_result(_ack(message.data, self._shown))
        except DynlogError as error:
            future.set_exception(error)
            future.exception()  # seen: who comes first to one that failed tells of it

    def ended(self) -> None:
        """The connection has ended: nothing that waits can come any more."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self._broken(None))
                future.exception()

    def _broken(self, error: Exception | None) -> SourceUnavailable:
        return SourceUnavailable(f"the connection to {self._shown} broke: {error or 'it was closed'}")


@asynccontextmanager
async def open_publisher(access: NatsAccess, *, acknowledged: bool, timeout: float = 10.0) -> AsyncIterator[Publisher]:
    """A publisher on a connection of its own; raises what `connect` raises."""
    made: list[Publisher] = []

    async def closed() -> None:
        for publisher in made:
            publisher.ended()

    client = await connect(access, timeout=timeout, reconnect=False, closed_cb=closed)
    try:
        publisher = Publisher(client, access.shown, acknowledged=acknowledged)
        made.append(publisher)
        try:
            await publisher.start()
        except (nats.errors.Error, OSError) as error:
            raise SourceUnavailable(f"the connection to {access.shown} broke: {error}") from None
        yield publisher
    finally:
        with suppress(nats.errors.Error, OSError, TimeoutError):
            await client.close()


def _ack(data: bytes, shown: str) -> Ack:
    try:
        said = json.loads(data)
        if "error" not in said:
            return Ack(str(said["stream"]), int(said["seq"]), bool(said.get("duplicate")))
        code, detail = int(said["error"].get("code", 0)), int(said["error"].get("err_code", 0))
        why = str(said["error"].get("description", "no reason given"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnavailable(f"{shown} acknowledged with what is no acknowledgement: {error!r}") from None
    if detail == TOO_LARGE:
        raise MessageRefused(f"the stream does not take it: {why}")
    if code in REFUSING:
        raise SourceRefused(f"{shown} does not take messages for this stream: {why} ({detail})")
    raise SourceUnavailable(f"{shown} cannot take the message now: {why} ({detail})")
