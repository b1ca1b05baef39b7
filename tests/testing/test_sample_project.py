"""The sample project is a user of ours: its own tests pass with the plugin, in the process and on a server."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

from dynlog.open import LOG_ENGINES
from tests.house.repository import REPOSITORY

SAMPLE = REPOSITORY / "examples" / "sample-project"
PATIENCE_S = 110.0


async def test_the_sample_projects_tests_pass_on_every_engine_that_it_names(tmp_path: Path) -> None:
    engines = ["memory", "sqlite", "redis"]
    assert set(engines) <= set(LOG_ENGINES)
    # A copy: what runs there leaves nothing here.
    copy = await asyncio.to_thread(shutil.copytree, SAMPLE, tmp_path / "sample-project")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-rA", f"--dynlog-engines={','.join(engines)}",
        cwd=copy, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    for engine in engines:
        assert f"[{engine}" in output
    assert "skipped" not in output
