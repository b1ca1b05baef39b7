"""nats-py's client on any event loop: a write to a connection that has ended is known from ``drain``, as on asyncio's.

uvloop's transports raise RuntimeError for such a write.  nats-py takes that for the end of the loop: what it was about
to do (to connect anew, to close itself) would end there, and half of it would be left.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport, Transport


class NatsClient(Client):
    """As nats-py's own."""

    _made: Transport | None = None

    @property
    def _transport(self) -> Transport | None:
        return self._made

    @_transport.setter
    def _transport(self, made: Transport | None) -> None:
        # nats-py sets it before it connects.
        self._made = _Tcp() if type(made) is TcpTransport else made  # type: ignore[no-untyped-call]

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if isinstance(self._made, _Tcp):
            self._made.leaving = True
        await super()._close(status, do_cbs)


class _Tcp(TcpTransport):
    leaving = False
    """Whether the client is being closed: that goes on although what was to be sent cannot be."""

    def write(self, payload: Any) -> None:
        with suppress(RuntimeError):
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: Any) -> None:
        with suppress(RuntimeError):
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        try:
            await super().drain()  # type: ignore[no-untyped-call]
        except OSError:
            if not self.leaving:
                raise
