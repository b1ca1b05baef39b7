"""How to get at a NATS server that is only read from, and the one connection to it.

The connection comes back by itself, and what was asked when it broke is asked again: every question here may be.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nats.errors

from dynlog.adapters.nats.exchange import Answer, Exchange, make_exchange, nobody_there, told
from dynlog.adapters.nats.failures import refuses, unreachable, why_away
from dynlog.adapters.nats.hanging_up import hung_up
from dynlog.errors import (
    ConfigurationError,
    MissingDependency,
    SourceError,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
)
from dynlog.timing import Backoff, Deadline
from dynlog.url import Url, parse_url, read_options

API_TIMEOUT_S = 10.0
PATIENCE_S = 60.0
"""So long a server that went away is waited for while something is read."""
ANSWER_S = 5.0
"""What is not answered within this is asked again: whoever leads a stream may have changed."""
NO_MESSAGE = 10037
_STARTING_S = 2.0
"""A server that has just come back may not have begun to answer for JetStream."""
_SCHEMES = ("nats", "tls")
_AGAIN = Backoff(first=0.05, most=1.0)


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Where a NATS server is and as whom to come; secrets are never printed.

    ``url`` is ``nats://host:port`` (``tls://`` insists on TLS, as do ``ca`` and ``cert``), several hosts with commas
    between them; a user and password, or a token as the user, may stand in it.
    """

    url: str = field(repr=False)
    creds: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def shown(self) -> str:
        """The URL without secrets; raises ConfigurationError if it is none."""
        url = _parsed(self.url)
        return f"{url.scheme}://{','.join(_hosts(url))}"


class NoMessage(SourceNotFound):
    """The stream is there, the message is not."""


class NatsServer:
    """A connection that only reads."""

    def __init__(self, client: Exchange, shown: str, patience_s: float, answer_s: float) -> None:
        self.client, self.shown, self.patience_s, self.answer_s = client, shown, patience_s, answer_s
        version = client.connected_server_version
        self.version: tuple[int, int, int] = (version.major, version.minor, version.patch)
        self.max_payload: int = client.max_payload

    async def api(
        self, subject: str, request: Mapping[str, Any] | None = None, *, timeout: float = API_TIMEOUT_S
    ) -> dict[str, Any]:
        """The answer to ``$JS.API.<subject>``; asked again until it comes if the connection breaks meanwhile.

        Raises SourceNotFound (no such stream, message or consumer), SourceRefused (a permission, JetStream is off),
        SourceUnavailable (no answer in time), SourceError (anything else that the server says).
        """
        payload = b"" if request is None else json.dumps(request).encode()
        deadline, pauses = Deadline(timeout), iter(_AGAIN)
        said_nobody: Deadline | None = None
        why: Exception | None = None
        while not deadline.passed:
            await self.connected(deadline)
            try:
                headers, data = await self._ask(f"$JS.API.{subject}", payload, min(deadline.remaining, self.answer_s))
                if not nobody_there(headers):
                    return self._read(subject, data)
                said_nobody = said_nobody or Deadline(_STARTING_S)
                why = SourceRefused(
                    f"nobody answers for JetStream at {self.shown} (asked {subject}): JetStream is off there or for "
                    "this account, or no server of the cluster has the stream now"
                )
                if said_nobody.passed:
                    raise why
            except SourceUnavailable as error:
                why = error
            await asyncio.sleep(min(next(pauses), deadline.remaining))
        raise why or SourceUnavailable(f"{timeout:g} s were not enough to ask NATS at {self.shown} for {subject}")

    async def connected(self, deadline: Deadline) -> None:
        """Returns once there is a connection; raises SourceUnavailable at the deadline, or as soon as none can come."""
        try:
            async with asyncio.timeout(deadline.remaining):
                await self.client.there.wait()
        except TimeoutError:
            trouble = self.client.last_trouble
            raise SourceUnavailable(
                f"NATS at {self.shown} is away" + (f": {why_away(trouble)}" if trouble is not None else "")
            ) from None
        if self.client.ended is not None:
            raise self.client.ended

    async def _ask(self, subject: str, payload: bytes, timeout: float) -> tuple[bytes, bytes]:
        answer = Answer(subject)
        reply = await self.client.ask(answer, payload)
        try:
            async with asyncio.timeout(timeout):
                return await answer.come
        except TimeoutError:
            raise SourceUnavailable(f"NATS at {self.shown} does not answer {subject}") from None
        finally:
            self.client.forget(reply)

    def _read(self, subject: str, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceUnavailable(f"what NATS at {self.shown} says to {subject} is no answer: {error}") from None
        if not isinstance(value, dict):
            raise SourceUnavailable(f"what NATS at {self.shown} says to {subject} is no answer: {data[:100]!r}")
        if isinstance(said := value.get("error"), dict):
            raise api_error(said, f"NATS at {self.shown} to {subject}")
        return value


def api_error(error: Mapping[str, Any], where: str) -> SourceError:
    """The error of a JetStream answer as ours."""
    code, text = error.get("code"), f"{where}: {error.get('description') or error}"
    if "jetstream not enabled" in text.lower():
        return SourceRefused(f"{text}: JetStream is off there or for this account")
    if code == 404:
        return NoMessage(text) if error.get("err_code") == NO_MESSAGE else SourceNotFound(text)
    if code in (401, 403):
        return SourceRefused(text)
    return SourceUnavailable(text) if code == 503 else SourceError(text)


@asynccontextmanager
async def open_nats(
    access: NatsAccess, *, timeout: float = 10.0, patience: float = PATIENCE_S, answer: float = ANSWER_S
) -> AsyncIterator[NatsServer]:
    """A connection that comes back by itself for as long as the context is open.

    ``patience`` is how many seconds a server that went away is waited for while something is read, ``answer`` after how
    many a question is asked again.  Raises ConfigurationError, MissingDependency, SourceRefused (login, certificate),
    SourceUnavailable.
    """
    url, settings = _parsed(access.url), _settings(access)
    shown, hosts = access.shown, _hosts(url)
    encrypted = "tls" in settings
    client, callbacks = make_exchange(shown, encrypted=encrypted)
    failures: list[Exception] = []
    opening = True

    async def failed(error: Exception) -> None:
        if not opening:
            await client.trouble(error)
            return
        failures.append(error)
        if len(failures) >= len(hosts) or refuses(error):
            raise error  # else nats-py would try for ever

    try:
        async with asyncio.timeout(timeout):
            await client.connect(
                [f"nats://{host}" for host in hosts], error_cb=failed, name="dynlog",
                max_reconnect_attempts=-1, connect_timeout=max(1, round(timeout)), ping_interval=3,
                max_outstanding_pings=2, **callbacks, **settings,
            )  # fmt: skip
            opening = False
            await client.open_inbox()
    except BaseException as error:
        await hung_up(client, 0.5)  # after a TLS handshake that failed nats-py waits for an end that never comes
        raise _opening_error(error, client, access, timeout, failures) from None
    try:
        yield NatsServer(client, shown, patience, answer)
    finally:
        await hung_up(client)


def _settings(access: NatsAccess) -> dict[str, Any]:
    """What nats-py is told of a user and of TLS."""
    url = _parsed(access.url)
    for what, path in (("creds", access.creds), ("ca", access.ca), ("cert", access.cert), ("key", access.key)):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{what}: there is no file {path}")
    if (access.cert is None) != (access.key is None):
        raise ConfigurationError("a client certificate wants its key, and a key its certificate: give both")
    settings: dict[str, Any] = {"reconnect_time_wait": 0.2}
    user = access.user if access.user is not None else url.user
    password = access.password if access.password is not None else url.password
    if access.creds is not None:
        _needs_nkeys()
        settings["user_credentials"] = str(access.creds)
    if access.token is not None or (user and password is None):
        settings["token"] = access.token if access.token is not None else user
    elif password is not None:
        settings |= {"user": user or "", "password": password}
    if url.scheme == "tls" or access.ca is not None or access.cert is not None:
        try:
            context = ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
            if access.cert is not None and access.key is not None:
                context.load_cert_chain(access.cert, access.key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(f"the certificates cannot be used: {error}") from None
        settings["tls"] = context
    return settings


def _needs_nkeys() -> None:
    if find_spec("nkeys") is None:
        raise MissingDependency("a creds file needs the package 'nkeys': pip install 'nats-py[nkeys]'")


def _parsed(text: str) -> Url:
    url = parse_url(text)
    read_options(url, {})
    if url.scheme not in _SCHEMES or not url.host or url.path not in ("", "/"):
        raise ConfigurationError(f"{url} is no NATS server: nats://HOST:PORT is, or tls://HOST:PORT")
    return url


def _hosts(url: Url) -> list[str]:
    return [f"{f'[{host}]' if ':' in host else host}:{port or 4222}" for host, port in url.places]


def _opening_error(
    error: BaseException, client: Exchange, access: NatsAccess, timeout: float, failures: list[Exception]
) -> BaseException:  # fmt: skip
    shown = access.shown
    if isinstance(error, SourceError) or not isinstance(error, Exception):
        return error
    if isinstance(error, TimeoutError) and not failures:
        return SourceUnavailable(f"{timeout:g} s were not enough to reach NATS at {shown}")
    if refuses(error) or isinstance(error, OSError | nats.errors.Error | TimeoutError):
        return unreachable(failures or [error], shown, client.said_of_itself, certified=access.cert is not None)
    return error if access.creds is None else ConfigurationError(f"creds: {access.creds} cannot be used: {told(error)}")
