"""Questions to a NATS server and their answers, with headers as they were sent and no question that nobody ends.

nats-py keeps one value of each header and replaces what is no UTF-8 in it, so answers are taken before it reads them.
Whoever asks is told once if the connection breaks, or if the server forbids the question.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import nats.errors

from dynlog.adapters.nats.client import NatsClient
from dynlog.adapters.nats.hearing import server_has_heard
from dynlog.errors import SourceError, SourceRefused, SourceUnavailable

_FORBIDDEN = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class Question(Protocol):
    """What was asked: ``subject`` is where, the rest is what becomes of it."""

    subject: str

    def answered(self, headers: bytes, data: bytes) -> None:
        """An answer came; it may be one of many."""

    def failed(self, error: SourceError) -> None:
        """No answer will come."""


class Exchange(NatsClient):
    """nats-py's client with questions."""

    def __init__(self, shown: str, *, encrypted: bool) -> None:
        super().__init__()
        self._shown, self._encrypted = shown, encrypted
        self._questions: dict[bytes, Question] = {}
        self._inbox = b""
        self._tokens = itertools.count()
        self.there = asyncio.Event()
        """Set while there is a connection."""
        self.gone = asyncio.Event()
        """Set while there is none."""
        self.ended: SourceError | None = None
        """Why there will be none any more."""
        self.last_trouble: Exception | None = None
        self._denied: dict[str, SourceRefused] = {}
        self._deaf: SourceRefused | None = None
        """Why no answer can come: this user may not listen at the inbox."""

    async def open_inbox(self) -> None:
        """Begins to take answers."""
        self._inbox = f"{self.new_inbox()}.".encode()
        await self.subscribe(f"{self._inbox.decode()}*")
        self.there.set()

    async def listen(self, subject: str, cb: Callable[[Any], Awaitable[None]], pending_bytes: int) -> None:
        """Subscribes for good; of what ``cb`` has not taken at most so much waits.

        Raises SourceRefused, SourceUnavailable.
        """
        try:
            await self.subscribe(subject, cb=cb, pending_bytes_limit=pending_bytes)
            await server_has_heard(self)
        except (nats.errors.Error, OSError) as error:
            raise SourceUnavailable(f"NATS at {self._shown} cannot be listened at: {told(error)}") from None
        if (denied := self._denied.get(subject.lower())) is not None:
            raise denied

    @property
    def said_of_itself(self) -> Mapping[str, Any]:
        """What the server told of itself; nothing before it did."""
        return self._server_info

    @property
    def waiting(self) -> int:
        """Questions that nobody has forgotten yet."""
        return len(self._questions)

    async def ask(self, question: Question, payload: bytes) -> bytes:
        """Sends the question; returns what `forget` wants, which whoever asks has to call in the end."""
        reply = self._inbox + b"%d" % next(self._tokens)
        self._questions[reply] = question
        if self._deaf is not None:
            question.failed(self._deaf)
            return reply
        try:
            await self.publish(question.subject, payload, reply=reply.decode())
        except (nats.errors.Error, OSError) as error:
            self._questions.pop(reply, None)
            question.failed(SourceUnavailable(f"NATS at {self._shown} cannot be asked: {told(error)}"))
        return reply

    def forget(self, reply: bytes) -> None:
        """Late answers are dropped from now on."""
        self._questions.pop(reply, None)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if self._inbox and subject.startswith(self._inbox):
            if (question := self._questions.get(bytes(subject))) is not None:
                question.answered(headers or b"", data)
            return
        await super()._process_msg(sid, subject, reply, data, headers)

    def _connect_command(self) -> bytes:
        # nats-py would go on in clear text, password included, where the server says that it has no TLS.
        if self._encrypted and not self._server_info.get("tls_required"):
            raise SourceRefused(
                f"NATS at {self._shown} does not ask for TLS, which this access is for: a server without TLS is "
                "nats://, with no CA and no certificate"
            )
        return super()._connect_command()

    async def connection_lost(self) -> None:
        """For nats-py: the connection broke, and with it every answer that was to come."""
        self.there.clear()
        self.gone.set()
        self._fail(SourceUnavailable(f"the connection to NATS at {self._shown} broke"))

    async def connection_back(self) -> None:
        """For nats-py: there is one again."""
        self._deaf = None  # it has just asked to listen again
        self.gone.clear()
        self.there.set()

    async def connection_ended(self) -> None:
        """For nats-py: it was closed, and none will come."""
        why = f": {told(self.last_error)}" if self.last_error is not None else ""
        self.ended = SourceUnavailable(f"the connection to NATS at {self._shown} was ended{why}")
        if isinstance(self.last_error, nats.errors.Error) and "auth" in str(self.last_error).lower():
            self.ended = SourceRefused(f"NATS at {self._shown} lets this user in no longer: {told(self.last_error)}")
        self.there.set()
        self.gone.set()
        self._fail(self.ended)

    async def trouble(self, error: Exception) -> None:
        """For nats-py: what it would log otherwise."""
        self.last_trouble = error
        if (forbidden := _FORBIDDEN.search(str(error))) is None:
            return
        what, where = forbidden[1].lower(), forbidden[2].lower()
        if what == "subscription":
            self._denied[where] = SourceRefused(
                f"NATS at {self._shown} does not let this user listen at {where!r}: it needs permission"
            )
        if what == "subscription" and where.encode() == self._inbox.lower() + b"*":
            self._deaf = SourceRefused(
                f"NATS at {self._shown} does not let this user listen at '{self._inbox.decode()}*', where "
                "answers come: it needs permission to subscribe to '_INBOX.>'"
            )
            self._fail(self._deaf)
            return
        for question in list(self._questions.values()):
            # nats-py tells errors in lower case.
            if what == "publish" and question.subject.lower() == where:
                question.failed(
                    SourceRefused(
                        f"NATS at {self._shown} does not let this user ask {question.subject!r}: it needs permission"
                    )
                )

    def _fail(self, error: SourceError) -> None:
        for question in list(self._questions.values()):
            question.failed(error)


def told(error: BaseException | None) -> str:
    """What an error of nats-py says."""
    return str(error).removeprefix("nats: ") or type(error).__name__


class Answer:
    """A question with one answer."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.come: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

    def answered(self, headers: bytes, data: bytes) -> None:
        if not self.come.done():
            self.come.set_result((headers, data))

    def failed(self, error: SourceError) -> None:
        if not self.come.done():
            self.come.set_exception(error)
            self.come.exception()  # whoever gave up need not hear of it


def nobody_there(headers: bytes) -> bool:
    """Whether the server says that nobody listens at the subject."""
    return headers.startswith(b"NATS/1.0 503")


def make_exchange(shown: str, *, encrypted: bool) -> tuple[Exchange, dict[str, Any]]:
    """A client, and the callbacks that it is to be connected with once its first connection is there."""
    exchange = Exchange(shown, encrypted=encrypted)
    return exchange, {
        "disconnected_cb": exchange.connection_lost, "reconnected_cb": exchange.connection_back,
        "closed_cb": exchange.connection_ended,
    }  # fmt: skip
