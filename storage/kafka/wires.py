"""Connections to brokers: one per broker and purpose, opened when needed, dropped when a request goes unanswered.

A broker answers the requests of one connection one after the other, so what may wait there (a long poll, an append that
is being replicated) has a connection of its own (`Purpose`).  aiokafka's connection does framing, SASL and TLS; its
client, which can hang when no broker answers, is not used.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

import aiokafka.errors
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import ApiVersionRequest

from dynlog.errors import Closed, ConfigurationError
from dynlog.storage.kafka.failures import NoAnswer, NotSent
from dynlog.storage.kafka.options import Settings
from dynlog.storage.kafka.protocol import BROKER_REGISTRATION, METADATA, OLDEST_BROKER
from dynlog.timing import SYSTEM_CLOCK

CONNECT_S = 5.0
ANSWER_S = 10.0
"""A connection on which requests of any length went unanswered for about so long is dropped, and another one opened."""
CLOSE_S = 2.0
_SILENT_S = 0.9 * ANSWER_S
_NEVER_MS = 3_600_000
_CREDENTIALS = (
    aiokafka.errors.AuthenticationFailedError,
    aiokafka.errors.SaslAuthenticationFailed,
    aiokafka.errors.UnsupportedSaslMechanismError,
    aiokafka.errors.IllegalSaslStateError,
)


class Purpose(Enum):
    """What a connection is for."""

    ASK = "ask"
    APPEND = "append"
    READ = "read"
    POLL = "poll"
    NEWCOMERS = "newcomers"
    MIRROR = "mirror"


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Wires:
    """All connections of one log handle; belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[tuple[Address, Purpose], AIOKafkaConnection] = {}
        self._opening: dict[tuple[Address, Purpose], asyncio.Lock] = {}
        self._silent_since: dict[tuple[Address, Purpose], float] = {}
        self._answered = False
        self._closed = False

    async def ask(self, address: Address, purpose: Purpose, request: Any, seconds: float) -> Any:
        """The broker's answer.  Raises NotSent, NoAnswer, or ConfigurationError for what repeating cannot cure."""
        connection = await self._connection(address, purpose, min(seconds, CONNECT_S))
        asked_at = SYSTEM_CLOCK.monotonic()
        try:
            async with asyncio.timeout(seconds):
                answer = await connection.send(request)
                self._answered = True
                self._silent_since.pop((address, purpose), None)
                return answer
        except asyncio.CancelledError:
            self._went_unanswered(address, purpose, connection, asked_at)
            raise
        except TimeoutError:
            self._went_unanswered(address, purpose, connection, asked_at)
            raise NoAnswer(f"the broker {address} did not answer within {seconds:.3g} s") from None
        except (aiokafka.errors.IncompatibleBrokerVersion, NotImplementedError):
            raise await self._unsuitable(address, connection) from None
        except (OSError, aiokafka.errors.KafkaError) as error:
            self._drop(address, purpose, connection)
            raise NoAnswer(f"the connection to the broker {address} broke: {error}{self._hint}") from error
        except (ValueError, IndexError, AssertionError) as error:
            self._drop(address, purpose, connection)
            raise NoAnswer(f"the broker {address} sent what is no answer: {error!r}") from error

    @staticmethod
    async def _unsuitable(address: Address, connection: AIOKafkaConnection) -> ConfigurationError:
        """Why somebody who speaks Kafka does not know the requests that every broker knows since `OLDEST_BROKER`."""
        with suppress(OSError, TimeoutError, NotImplementedError, aiokafka.errors.KafkaError):
            async with asyncio.timeout(CONNECT_S):
                known = {key for key, *_ in (await connection.send(ApiVersionRequest())).api_versions}
            if BROKER_REGISTRATION in known and METADATA not in known:
                return ConfigurationError(
                    f"{address} is a controller's listener (KRaft), which serves brokers only: name a broker's, as in "
                    "its advertised.listeners"
                )
        return ConfigurationError(f"the broker {address} is older than Kafka {OLDEST_BROKER}: upgrade it")

    def _went_unanswered(
        self, address: Address, purpose: Purpose, connection: AIOKafkaConnection, asked_at: float
    ) -> None:
        """Half-open connections stay silent for ever, and each caller alone may have had little time."""
        since = self._silent_since.setdefault((address, purpose), asked_at)
        if SYSTEM_CLOCK.monotonic() - since >= _SILENT_S:
            self._drop(address, purpose, connection)

    async def _connection(self, address: Address, purpose: Purpose, seconds: float) -> AIOKafkaConnection:
        key = address, purpose
        found = self._open.get(key)
        if found is not None and found.connected():
            return found
        try:
            async with asyncio.timeout(seconds), self._opening.setdefault(key, asyncio.Lock()):
                found = self._open.get(key)
                if found is None or not found.connected():
                    self._check_open()
                    found = self._open[key] = await self._connect(address)
                    self._silent_since.pop(key, None)
                    if self._closed:
                        self._drop(address, purpose, found)
                        self._check_open()
                return found
        except TimeoutError:
            raise NotSent(
                f"the broker {address} did not accept a connection within {seconds:.3g} s{self._hint}"
            ) from None

    async def _connect(self, address: Address) -> AIOKafkaConnection:
        settings = self._settings
        try:
            return await create_conn(
                *address,
                client_id="dynlog",
                request_timeout_ms=_NEVER_MS,  # ours are shorter
                ssl_context=settings.tls,
                security_protocol=settings.security,
                sasl_mechanism=settings.mechanism,
                sasl_plain_username=settings.user,
                sasl_plain_password=settings.password,
            )
        except _CREDENTIALS as error:
            raise ConfigurationError(
                f"the broker {address} refused user {settings.user!r} with {settings.mechanism}: {error}; check user, "
                "password and the option sasl"
            ) from None
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"TLS with the broker {address} failed: {error}; check tls_ca, and that this port speaks TLS"
            ) from None
        except (OSError, aiokafka.errors.KafkaError) as error:
            raise NotSent(f"no connection to the broker {address}: {str(error) or repr(error)}{self._hint}") from error
        except (ValueError, IndexError, AssertionError) as error:
            raise NotSent(f"what listens at {address} is no Kafka broker: {error!r}{self._hint}") from error

    @property
    def _hint(self) -> str:
        """What is often the reason when a broker that never answered hangs up or says nothing."""
        if self._answered:
            return ""
        tls = "whether that port speaks TLS" if self._settings.tls else "whether it wants TLS (tls=true)"
        return f"; check host and port, {tls}{'' if self._settings.user else ' or a user and a password'}"

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the log was closed")

    def _drop(self, address: Address, purpose: Purpose, connection: AIOKafkaConnection) -> None:
        if self._open.get((address, purpose)) is connection:
            del self._open[address, purpose]
        connection.close()

    async def close(self) -> None:
        """Closes all connections; waits a moment for their sockets."""
        self._closed = True
        connections, self._open = list(self._open.values()), {}
        endings = [ending for ending in (connection.close() for connection in connections) if ending is not None]
        if endings:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.wait(endings)
