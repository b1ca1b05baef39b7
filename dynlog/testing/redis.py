"""A real Redis for a test: any durability, users, TLS, memory bound or primary that its options ask for."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynlog.testing.process import NativeServer, ServerNotAvailable

_PROGRAM = "redis-server"


class RedisServer(NativeServer):
    """A redis-server over a folder of its own.

    ``appendfsync`` is ``always``, ``everysec``, ``no``, or None for a server that keeps nothing; ``users`` are ACL
    rules by name (``"app": ">secret ~* &* +@all"``; the default user stays as it is); ``tls`` is a folder with
    ``ca.crt``, ``server.crt`` and ``server.key``, and the port then speaks TLS only; ``options`` are further lines of
    redis.conf.
    """

    name = _PROGRAM

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        appendfsync: str | None = "always",
        users: Mapping[str, str] | None = None,
        tls: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self._appendfsync = appendfsync
        self._users = dict(users or {})
        self._tls = tls
        self._options = dict(options or {})

    @property
    def url(self) -> str:
        """The URL of its first database, without a prefix."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str | Path]:
        program = shutil.which(_PROGRAM)
        if program is None:
            raise ServerNotAvailable(
                f"{_PROGRAM} is not on PATH: `make servers` (scripts/servers/redis.sh) says how to get it"
            )
        return [program, self.folder / "redis.conf"]

    async def prepare(self) -> None:
        lines = ["bind 127.0.0.1", f"dir {self.folder}", 'save ""', "daemonize no", "protected-mode no"]
        if self._appendfsync is not None:
            lines += ["appendonly yes", f"appendfsync {self._appendfsync}"]
        if self._tls is None:
            lines.append(f"port {self.port}")
        else:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self._tls / 'server.crt'}",
                f"tls-key-file {self._tls / 'server.key'}",
                f"tls-ca-cert-file {self._tls / 'ca.crt'}",
                "tls-auth-clients no",
            ]
        lines += [f"user {name} on {rules}" for name, rules in self._users.items()]
        lines += [f"{name} {value}" for name, value in self._options.items()]
        (self.folder / "redis.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def ready(self) -> bool:
        """Whether it accepts; the log that is opened waits for what it loads."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True
        return False
