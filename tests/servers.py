"""Real servers for tests: on a free loopback port, ready when yielded, stopped by pid, data in the test's folder.

A server that cannot be had fails the test and names the command that provides it; it never skips.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class Server(NamedTuple):
    """A server that is ready; ``pid`` is for tests that kill it."""

    url: str
    pid: int


def program(server: str) -> Path:
    """Where the server's program is; fails the test if it is not there."""
    script = REPOSITORY / "scripts" / "servers" / f"{server}.sh"
    found = subprocess.run([script, "--where"], capture_output=True, text=True, check=False, timeout=30)
    if found.returncode:
        pytest.fail(f"{found.stderr.strip()}; `make servers` provides it", pytrace=False)
    return Path(found.stdout.strip())


@asynccontextmanager
async def nats_server(store: Path) -> AsyncIterator[Server]:
    """A nats-server with JetStream over the store directory; stops it at the end of the block."""
    executable = program("nats")
    # Port -1 lets the server choose and say which in its log: no port is guessed that another could take meanwhile.
    process = await asyncio.create_subprocess_exec(
        executable, "--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", store,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    log: deque[str] = deque(maxlen=200)
    draining: asyncio.Task[None] | None = None
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                port = await _listening_port(process.stderr, log)
        except TimeoutError:
            port = None
        if port is None:
            pytest.fail("nats-server did not start:\n" + "".join(log), pytrace=False)
        # A full pipe would stop the server in the middle of a log line.
        draining = asyncio.create_task(_drain(process.stderr, log))
        yield Server(f"nats://127.0.0.1:{port}", process.pid)
    finally:
        await _stop(process)
        if draining is not None:
            await draining


async def _listening_port(stderr: asyncio.StreamReader, log: deque[str]) -> int | None:
    """Reads the log until the server is ready (its streams are restored by then); None if it ended before."""
    port = None
    while line := (await stderr.readline()).decode(errors="replace"):
        log.append(line)
        if match := re.search(r"Listening for client connections on \S+:(\d+)", line):
            port = int(match[1])
        if "Server is ready" in line:
            return port
    return None


async def _drain(stderr: asyncio.StreamReader, log: deque[str]) -> None:
    while line := await stderr.readline():
        log.append(line.decode(errors="replace"))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
