"""Whether a source is connected, and what there is to say about it: a source that nobody answers at is not silent.

ZMQ connects in the background and tries for ever, so a wrong port, a dead engine and a host name that does not exist
look like an engine that has nothing to say.  The sockets' monitors tell them apart.
"""

from __future__ import annotations

import asyncio
import math
import socket
from pathlib import Path
from time import monotonic
from typing import Protocol

from dynlog.ingest_items import Noticed, NoticeKind

UNREACHED_S = 10.0
"""Without a connection for so long a source is named, once until it is reached."""
RESOLVE_S = 2.0


class Source(Protocol):
    """A source, printed as its address."""

    @property
    def connect_to(self) -> str:
        """``tcp://HOST:PORT`` or ``ipc://PATH``."""


class Reach:
    """The connection of one source; ``who`` speaks of it in notices."""

    def __init__(self, source: Source, who: str = "") -> None:
        self._source = source
        self._who = who
        self._since: float | None = None
        self._said = False

    def waiting(self) -> Noticed:
        """There is no connection, from now on."""
        self._since, self._said = monotonic(), False
        return Noticed(NoticeKind.WAITING, str(self._source), "there is no connection")

    def changed(self, *, connected: bool) -> Noticed | None:
        """It was reached, or lost; None if it had no connection before either."""
        if not connected:
            return None if self._since is not None else self.waiting()
        away = ""
        if self._since is not None and self._said:
            away = f" after {monotonic() - self._since:.0f} s without a connection"
        self._since = None
        return Noticed(NoticeKind.CONNECTED, str(self._source), f"{self._who or 'reached'}{away}")

    @property
    def left(self) -> float:
        """Seconds until there is something to say about it."""
        return math.inf if self._since is None or self._said else self._since + UNREACHED_S - monotonic()

    async def overdue(self, why: str | None = None) -> Noticed | None:
        """That it was not reached for too long, and why as far as that is known or can be seen; said once."""
        if self.left > 0:
            return None
        self._said = True
        why = why or await trouble_at(self._source.connect_to)
        return Noticed(
            NoticeKind.UNREACHED, str(self._source), f"no connection for {UNREACHED_S:g} s, and it is tried on: {why}"
        )


async def trouble_at(endpoint: str) -> str:
    """Why nobody may have answered there, without connecting to it."""
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        if not await asyncio.to_thread(Path(path).exists):
            return f"there is no socket {path}"
    else:
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        host = host.strip("[]")
        try:
            async with asyncio.timeout(RESOLVE_S):
                await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except TimeoutError:
            return f"the host name {host!r} was not resolved within {RESOLVE_S:g} s"
        except (OSError, UnicodeError) as error:
            return f"the host name {host!r} cannot be resolved ({getattr(error, 'strerror', None) or error})"
    return "nobody answers; check that the engine is up and publishes there"
