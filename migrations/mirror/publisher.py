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
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import nats.errors

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.adapters.nats.exchange import Answer, told
from dynlog.adapters.nats.hearing import server_has_heard
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

    def __init__(self, server: NatsServer, *, acknowledged: bool) -> None:
        self._server, self._client, self._shown, self._acknowledged = server, server.client, server.shown, acknowledged
        self._inbox = server.client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Ack]] = {}
        self._window: deque[tuple[asyncio.Future[Ack], int]] = deque()
        self._size = 0
        self._probed = False
        self._alive = Answer(f"{self._inbox}.alive")
        self.max_payload: int = server.max_payload

    async def start(self) -> None:
        """Begins to listen for acknowledgements, and for the end of the connection."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)
        # A question to ourselves, never answered: that it fails tells of the connection's end.
        await self._client.ask(self._alive, b"")

    async def send(self, message: Outgoing) -> asyncio.Future[Ack]:
        """Sends it, waiting for room, and gives what becomes its acknowledgement.

        The future, and a later `send`, raise MessageRefused (this message alone), SourceRefused, SourceUnavailable.
        """
        # Until the first one is acknowledged it goes alone: a stream that is not ready yet would refuse one message
        # and take the next.
        while len(self._window) >= (WINDOW if self._probed else 1) or self._size > WINDOW_BYTES:
            await self._acknowledged_up_to(len(self._window) // 2)
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        try:
            if self._acknowledged:
                token = str(next(self._numbers))
                self._waiting[token] = future
                await self._client.publish(
                    message.subject, message.payload, reply=f"{self._inbox}.{token}", headers=message.headers
                )
                self._window.append((future, len(message.payload)))
                self._size += len(message.payload)
            else:
                await self._client.publish(message.subject, message.payload, headers=message.headers)
                future.set_result(Ack("", 0, False))
        except (nats.errors.Error, OSError) as error:
            raise self._broken(error) from None
        return future

    async def flush(self) -> None:
        """Returns once everything that was sent is acknowledged, or its future says why not."""
        while self._window:
            await self._acknowledged_up_to(-1)
        if not self._acknowledged:
            await self._passed()

    async def _passed(self) -> None:
        """Returns once the server has all that was sent: nobody else acknowledges it."""
        flushing = asyncio.ensure_future(server_has_heard(self._client, ACK_S))
        try:
            # A flush does not hear of the connection's end.
            await asyncio.wait((flushing, self._alive.come), return_when=asyncio.FIRST_COMPLETED)
            if not flushing.done():
                raise self._broken(self._alive.come.exception())
            await flushing
        except (nats.errors.Error, OSError) as error:
            raise self._broken(error) from None
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        check_permission(self._server)

    async def _acknowledged_up_to(self, index: int) -> None:
        """Waits for one in the window, and takes out of it all that are acknowledged before any that is not."""
        await self._answer(self._window[index][0])
        if not self._window[0][0].done():  # answers mostly come in order, but need not
            await self._answer(self._window[0][0])
        while self._window and self._window[0][0].done():
            future, size = self._window.popleft()
            self._size -= size
            error = future.exception()
            if error is not None and not isinstance(error, MessageRefused):
                raise error
        self._probed = True

    async def _answer(self, future: asyncio.Future[Ack]) -> None:
        if not future.done():
            await asyncio.wait((future, self._alive.come), timeout=ACK_S, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            check_permission(self._server)
            if self._alive.come.done():
                raise self._broken(self._alive.come.exception())
            raise SourceUnavailable(f"{self._shown} did not acknowledge a message within {ACK_S:g} s")

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

    def _broken(self, error: BaseException | None) -> SourceUnavailable:
        return SourceUnavailable(f"the connection to {self._shown} broke: {told(error)}")


@asynccontextmanager
async def open_publisher(access: NatsAccess, *, acknowledged: bool, timeout: float = 10.0) -> AsyncIterator[Publisher]:
    """A publisher on a connection of its own; raises what `open_nats` raises."""
    async with open_nats(access, timeout=timeout) as server:
        server.client.options["allow_reconnect"] = False
        publisher = Publisher(server, acknowledged=acknowledged)
        try:
            await publisher.start()
        except (nats.errors.Error, OSError) as error:
            raise SourceUnavailable(f"the connection to {server.shown} broke: {told(error)}") from None
        yield publisher


def check_permission(server: NatsServer) -> None:
    """Raises SourceRefused if the server said that this user may not do what was done; it says so only beside."""
    trouble = server.client.last_trouble
    if trouble is not None and "permissions violation" in str(trouble).lower():
        raise SourceRefused(f"{server.shown} does not let this user do it: {told(trouble)}")


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
