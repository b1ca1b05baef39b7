"""A server run for a test from its native program: on loopback, ready when started, stopped by pid, gone with the test.

Every method has a deadline, and a server that does not come up raises `ServerNotAvailable` with the end of its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dynlog.errors import DynlogError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 4_000
_SERVER_PORTS = (15_000, 32_000)
"""Linux gives clients ports from 32768, others from 49152."""
_PORT_TRIES = 200
_RANDOM = random.SystemRandom()  # the shared generator may be seeded alike in every worker of a test run


class ServerNotAvailable(DynlogError):
    """A server that a test needs cannot be had; the message names the command that would provide it."""


class NativeServer(ABC):
    """One server process over one folder; an async context manager.

    ``restart`` keeps port and data, so a test may kill the server and let clients find it again where it was.
    """

    name = "server"
    user = ""
    password = ""
    """Empty where clients need none."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self._process: asyncio.subprocess.Process | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The program and its arguments, for ``self.folder`` and ``self.port``."""

    @abstractmethod
    async def ready(self) -> bool:
        """Whether the server answers; called again and again while it starts, so it must not raise for "not yet"."""

    async def prepare(self) -> None:  # noqa: B027 - most servers need none
        """Writes configuration or formats a disk, before the first start."""

    @property
    def pid(self) -> int:
        """The running process; raises ServerNotAvailable when there is none."""
        if self._process is None or self._process.returncode is not None:
            raise ServerNotAvailable(f"{self.name} on port {self.port} is not running: start it first")
        return self._process.pid

    @property
    def log_tail(self) -> str:
        """The end of what the server printed."""
        with contextlib.suppress(FileNotFoundError), (self.folder / f"{self.name}.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""

    async def start(self, *, timeout: float = START_TIMEOUT_S) -> None:
        """Starts the server and returns once it answers; raises ServerNotAvailable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._process is None:
            await self.prepare()
        command = [*_ends_with_its_parent(), *map(str, self.command())]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command, cwd=self.folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
            except OSError as error:
                raise ServerNotAvailable(f"{self.name}: {command[0]} cannot be run: {error}") from None
        try:
            async with asyncio.timeout(timeout):
                while not await self.ready():
                    if self._process.returncode is not None:
                        raise ServerNotAvailable(f"{self.name} ended while it started:\n{self.log_tail}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await self.kill()
            raise ServerNotAvailable(f"{self.name} was not ready after {timeout:g} s:\n{self.log_tail}") from None
        except BaseException:
            await self.kill()
            raise

    async def stop(self, *, timeout: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, and SIGKILL if that did not do; harmless when it is not running."""
        if self._process is None or self._process.returncode is not None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL; returns once the process is gone."""
        if self._process is not None and self._process.returncode is None:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    async def restart(self, *, timeout: float = START_TIMEOUT_S) -> None:
        """Starts it again on the same port and data, after `kill` or `stop`."""
        await self.stop()
        await self.start(timeout=timeout)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers any more once this returns."""
        self._signal(signal.SIGSTOP)
        # The signal is sent, not yet acted on: a thread of the server may answer for some microseconds still.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def _ends_with_its_parent() -> Sequence[str]:
    """Linux: the kernel kills the server when the thread that started it ends, so a killed test run leaves none."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    # Busybox has a setpriv, too, but not this option of it.
    if setpriv is None or Path(setpriv).resolve().name != "setpriv":
        return ()
    return (setpriv, "--pdeathsig", "KILL", "--")


def free_port() -> int:
    """A loopback port that was free a moment ago, below those that the kernel gives to clients.

    A client's port could take it while the server starts or is down between `kill` and `restart`; and a client that
    tries again and again to reach a port of its own range while nobody listens there ends up connected to itself.
    """
    for _ in range(_PORT_TRIES):
        port = _RANDOM.randrange(*_SERVER_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerNotAvailable(f"no free port found on 127.0.0.1 after {_PORT_TRIES} tries")
