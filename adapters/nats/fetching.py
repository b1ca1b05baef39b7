"""Two ways to fetch a stream's messages in order without a consumer, both bounded in what is on its way.

`Batches` asks for many at once, two requests on their way (direct get with ``batch``: any replica, or a mirror, may
answer).  `Window` asks its leader for each alone, many requests on their way.  Both go over deleted messages.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import NamedTuple, Protocol

from dynlog.adapters.nats.access import NatsServer, NoMessage, api_error
from dynlog.adapters.nats.exchange import Answer, nobody_there
from dynlog.adapters.nats.messages import StreamMessage, direct_message, stored_message
from dynlog.errors import SourceError, SourceUnavailable

BATCH_MESSAGES = 1024
BATCH_BYTES = 1 << 20
WINDOW = 256
WINDOW_BYTES = 4 << 20
"""The window shrinks so that answers of the size that came last fit into this."""
WORST_BYTES = 48 << 20
"""It never grows so far that answers of the largest size would be more."""


class Fetched(NamedTuple):
    """Messages in order, and where to go on; ``ended`` if whoever answered has nothing from there on."""

    messages: list[StreamMessage]
    at: int
    ended: bool


class NotItself(Exception):
    """Somebody else than the stream answered: a mirror, which may have kept less."""


class Fetcher(Protocol):
    """Fetches from a sequence on; raises SourceError, after which it may be asked again."""

    async def fetch(self, at: int, last: int) -> Fetched: ...

    def close(self) -> None: ...


class _Batch:
    """One request for many messages."""

    def __init__(self, stream: str, at: int) -> None:
        self.subject, self.at = f"$JS.API.DIRECT.GET.{stream}", at
        self.reply = b""
        self.messages: list[StreamMessage] = []
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether there is nothing behind these messages."""
        self._stream = stream

    def answered(self, headers: bytes, data: bytes) -> None:
        try:
            found = direct_message(headers, data)
        except ValueError as error:
            self._fail(SourceUnavailable(f"{self.subject}: an answer that is none: {error}"))
            return
        if found is None:
            self._ended(headers)
        elif found.stream != self._stream:
            self._fail(NotItself())
        elif not self.done.done():
            self.messages.append(found.message)
            if not found.batched:
                self.done.set_result(False)  # a server before 2.11, as may be met in a cluster, sends one

    def failed(self, error: SourceError) -> None:
        self._fail(error)

    def _ended(self, headers: bytes) -> None:
        if headers.startswith(b"NATS/1.0 204"):
            if not self.done.done():
                self.done.set_result(b"\r\nNats-Num-Pending: 0\r\n" in headers)
        elif headers.startswith(b"NATS/1.0 404"):
            if not self.done.done():
                self.done.set_result(True)
        else:
            said = headers[:80].decode(errors="replace").strip()
            self._fail(SourceUnavailable(f"{self.subject}: {said or 'an answer that is none'}"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever gave up need not hear of it


class Batches:
    """Many messages at a time; the next ones are asked for before these are handed over."""

    def __init__(self, server: NatsServer, stream: str, subject: str | None) -> None:
        self._server, self._stream, self._subject = server, stream, subject
        self._ahead: _Batch | None = None

    async def fetch(self, at: int, last: int) -> Fetched:
        batch, self._ahead = self._ahead, None
        if batch is None or batch.at != at:
            self._forget(batch)
            batch = await self._asked(at)
        try:
            ended = await self._whole(batch)
        finally:
            self._forget(batch)
        at = batch.messages[-1].sequence + 1 if batch.messages else at
        ended = ended or not batch.messages
        if not ended and at <= last:
            self._ahead = await self._asked(at)
        return Fetched(batch.messages, at, ended)

    def close(self) -> None:
        self._forget(self._ahead)
        self._ahead = None

    async def _asked(self, at: int) -> _Batch:
        batch = _Batch(self._stream, at)
        request = {"seq": at, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES}
        if self._subject is not None:
            request["next_by_subj"] = self._subject  # type: ignore[assignment]
        batch.reply = await self._server.client.ask(batch, json.dumps(request).encode())
        return batch

    async def _whole(self, batch: _Batch) -> bool:
        """Waits for as long as messages come."""
        while True:
            count = len(batch.messages)
            if batch.done.done() or (await asyncio.wait([batch.done], timeout=self._server.answer_s))[0]:
                return batch.done.result()
            if len(batch.messages) == count:
                raise SourceUnavailable(f"NATS at {self._server.shown} does not answer {batch.subject}")

    def _forget(self, batch: _Batch | None) -> None:
        if batch is not None:
            self._server.client.forget(batch.reply)


class _Asked(NamedTuple):
    at: int
    answer: Answer
    reply: bytes


class Window:
    """One message a request; the window widens while messages lie close together, and halves at a gap."""

    def __init__(self, server: NatsServer, stream: str, subject: str | None, max_message: int) -> None:
        self._server, self._stream = server, stream
        self._request = b'{"seq":%%d,"next_by_subj":%s}' % json.dumps(subject or ">").replace("%", "%%").encode()
        self._most = max(2, min(WINDOW, WORST_BYTES * 3 // (max_message * 4)))
        self._width = 1
        self._size = 0
        self._asked: deque[_Asked] = deque()

    async def fetch(self, at: int, last: int) -> Fetched:
        if not self._asked or self._asked[0].at != at:
            self.close()
        messages: list[StreamMessage] = []
        try:
            while at <= last:
                if messages and self._asked and not self._asked[0].answer.come.done():
                    break
                await self._fill(at, last)
                message = await self._first()
                if message is None:
                    self.close()
                    return Fetched(messages, at, ended=True)
                messages.append(message)
                at = self._passed(message, at)
        except BaseException:
            self.close()
            if not messages:
                raise
        return Fetched(messages, at, ended=False)

    def close(self) -> None:
        while self._asked:
            self._server.client.forget(self._asked.popleft().reply)

    async def _fill(self, at: int, last: int) -> None:
        if len(self._asked) > self._width // 2:
            return  # many at a time: each write to a socket costs more than a request
        following = self._asked[-1].at + 1 if self._asked else at
        while len(self._asked) < self._width and following <= last:
            answer = Answer(f"$JS.API.STREAM.MSG.GET.{self._stream}")
            reply = await self._server.client.ask(answer, self._request % following)
            self._asked.append(_Asked(following, answer, reply))
            following += 1

    async def _first(self) -> StreamMessage | None:
        asked = self._asked[0]
        try:
            if not asked.answer.come.done():
                await asyncio.wait([asked.answer.come], timeout=self._server.answer_s)
            if not asked.answer.come.done():
                raise SourceUnavailable(f"NATS at {self._server.shown} does not answer {asked.answer.subject}")
            headers, data = asked.answer.come.result()
        finally:
            self._server.client.forget(asked.reply)
        self._size = len(data)
        return read_answer(headers, data, f"NATS at {self._server.shown} to {asked.answer.subject}")

    def _passed(self, message: StreamMessage, at: int) -> int:
        """Drops what the message answers too, and says where to go on."""
        close_by = message.sequence == at
        while self._asked and self._asked[0].at <= message.sequence:
            self._server.client.forget(self._asked.popleft().reply)
        fitting = max(1, WINDOW_BYTES // max(self._size, 1))
        self._width = max(1, min(self._width * 2 if close_by else self._width // 2, self._most, fitting))
        return message.sequence + 1


def read_answer(headers: bytes, data: bytes, where: str) -> StreamMessage | None:
    """The message of an answer; None where there is none, and SourceError for all else."""
    if nobody_there(headers):
        raise SourceUnavailable(f"{where}: nobody answers for JetStream now")
    try:
        answer = json.loads(data.decode())  # which spares it looking for the encoding: a third of its time
    except (ValueError, RecursionError) as error:
        raise SourceUnavailable(f"{where}: an answer that is none: {error}") from None
    if isinstance(answer, dict) and isinstance(said := answer.get("error"), dict):
        refused = api_error(said, where)
        if isinstance(refused, NoMessage):
            return None
        raise refused
    return stored_message(answer, where)


async def get_message(server: NatsServer, stream: str, **request: int | str) -> StreamMessage | None:
    """The message that the stream's leader has for ``seq``, ``next_by_subj`` or ``last_by_subj``, or None.

    Raises SourceNotFound if there is no such stream, SourceRefused, SourceUnavailable.
    """
    try:
        answer = await server.api(f"STREAM.MSG.GET.{stream}", request)
    except NoMessage:
        return None
    return stored_message(answer, f"NATS at {server.shown} to STREAM.MSG.GET.{stream}")
