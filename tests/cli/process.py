"""`dynlog` in a process of its own, spoken to line by line; every wait has a deadline."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

PATIENCE_S = 30.0
"""No test waits longer than this for something that must come; it only bounds a failure."""


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Stdout, line by line."""
        return self.out.splitlines()

    @property
    def complaint(self) -> str:
        """The one line on stderr that says what went wrong; fails if there is more, or less."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("dynlog: error: "), self.err
        return self.err.removeprefix("dynlog: error: ").rstrip("\n")


class Dynlog:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, *arguments: str) -> AsyncIterator[Self]:
        """Starts it with pipes; whatever happens it is gone at the end of the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dynlog.cli", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def say(self, text: str) -> None:
        """Writes to its stdin, which stays open."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        async with asyncio.timeout(PATIENCE_S):
            await self._process.stdin.drain()

    async def line(self) -> str:
        """The next line of stdout, without its line feed."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it, and to nobody else."""
        self._process.send_signal(number)

    def stop_listening(self) -> None:
        """Goes away as `head` does: closes the read end of its stdout."""
        transport = self._process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.close()

    async def ended(self) -> Outcome:
        """Closes its stdin if that is still open, waits for its end and gives the rest of what it said."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Outcome(self._process.returncode, out.decode(), err.decode())

    async def ended_with_stdin_open(self) -> int:
        """Waits for its end while its stdin stays open; gives the exit status."""
        async with asyncio.timeout(PATIENCE_S):
            # Not `wait`: on uvloop that waits until the pipes are closed, too.
            while (status := self._process.returncode) is None:  # noqa: ASYNC110  (asyncio has no event for it)
                await asyncio.sleep(0.01)
        return status


async def dynlog(*arguments: str, stdin: str = "") -> Outcome:
    """One command from start to end, in a process of its own."""
    async with Dynlog.start(*arguments) as command:
        await command.say(stdin)
        return await command.ended()


async def on_a_terminal(typed: str, *arguments: str) -> Outcome:
    """One command with a terminal as its stdin, where that is typed."""
    terminal, stdin = pty.openpty()
    try:
        os.write(terminal, typed.encode())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dynlog.cli", *arguments,
            stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    finally:
        os.close(stdin)
        os.close(terminal)
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())
