"""A user's project with tests of its own, run by a pytest of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

PATIENCE_S = 90.0
"""No test waits longer than this for something that must come; it only bounds a failure."""
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


class Outcome(NamedTuple):
    """How a run ended: the outcome of each test by its name, and all that was printed."""

    status: int
    tests: Mapping[str, str]
    output: str


class UserProject:
    """A folder with one test file."""

    def __init__(self, folder: Path, tests: str, ini: str = INI) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "pytest.ini").write_text(ini, encoding="utf-8")
        (folder / "test_it.py").write_text(dedent(tests), encoding="utf-8")

    async def run(self, *arguments: str, **environment: str) -> Outcome:
        """Runs the tests to their end."""
        async with self.started(*arguments, **environment) as process, asyncio.timeout(PATIENCE_S):
            assert process.stdout is not None
            output = (await process.stdout.read()).decode()
            status = await process.wait()
        found = re.findall(
            r"^(PASSED|FAILED|ERROR|SKIPPED) (?:\[\d+\] )?test_it\.py(?:::|:\d+: )(\S+)", output, re.MULTILINE
        )
        return Outcome(status, {name: outcome for outcome, name in found}, output)

    @asynccontextmanager
    async def started(self, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A run under way; killed if the block ends before it."""
        inherited = {name: value for name, value in os.environ.items() if not _steers(name)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--basetemp", self.folder / "tmp",
            *arguments,
            cwd=self.folder, env={**inherited, "DYNLOG_SERVERS": "native", **environment},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _steers(name: str) -> bool:
    """Whether the variable would make the user's run another than on a machine where nothing is set."""
    return name.startswith(("PYTEST", "DYNLOG_")) and name != "DYNLOG_CACHE"


async def refuses_connections(port: int) -> bool:
    """Whether nobody listens there (any more): asks until it is so, for a while."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return True
            writer.transport.abort()
            await asyncio.sleep(0.05)
