"""The operator's guide, with what its commands say: ``python -m tests.migrate.guide`` writes the outputs anew.

A ```bash block under ``<!-- run -->`` is run against the sample store; the ```text block after it is its output.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dynlog.testing.nats import NatsServer
from tests.house.repository import REPOSITORY
from tests.migrations.dynamo_sample import unpack_sample

GUIDE = REPOSITORY / "docs" / "migrating-from-nats.md"
_BLOCK = re.compile(r"<!-- run -->\n```bash\n(?P<commands>.*?)```\n```text\n(?P<said>.*?)```\n", re.DOTALL)
_VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"(?<=time {14})[\d.]+ s|(?<=rate {14})[\d,]+"), "FIGURE"),
    (re.compile(r"\d+\.\d KiB"), "SIZE"),
    (re.compile(r" +"), " "),
)


async def with_outputs(page: str, folder: Path) -> str:
    """The page with every output as it is now; raises CalledProcessError for a command that fails."""
    async with NatsServer(folder / "server", store=await unpack_sample(folder)) as server:
        environment = {
            **os.environ, "DYNLOG_NATS": server.url, "DYNLOG_LOG": f"sqlite://{folder}/events.db",
            "DYNLOG_OBJECTS": f"file://{folder}/objects", "COLUMNS": "200",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

        def run(found: re.Match[str]) -> str:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", found["commands"]], env=environment, check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
            )  # fmt: skip
            said = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
            said = said.replace(server.url, "nats://127.0.0.1:4222").replace(f"{folder}/", "/var/lib/fleet/")
            return f"<!-- run -->\n```bash\n{found['commands']}```\n```text\n{said}```\n"

        return await asyncio.to_thread(_BLOCK.sub, run, page)


def lasting(page: str) -> str:
    """The page without what differs from run to run."""
    for pattern, name in _VOLATILE:
        page = pattern.sub(name, page)
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        GUIDE.write_text(asyncio.run(with_outputs(GUIDE.read_text(encoding="utf-8"), Path(scratch))), encoding="utf-8")
