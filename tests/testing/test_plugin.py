"""The plugin costs nobody anything: it loads quickly, and needs no async plugin where nothing async is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.testing.user_project import INI, UserProject

PLAIN = """
    import asyncio
    from dynlog import open_log

    def test_url(dynlog_log_url):
        async def use():
            async with open_log(dynlog_log_url) as log:
                await log.create_topic("t")
        asyncio.run(use())
"""
ASKS_FOR_ASYNC = """
    def test_log(dynlog_log): pass
    def test_objects(dynlog_objects): pass
"""
WITH_ANYIO = """
    import pytest

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_log(dynlog_log):
        await dynlog_log.create_topic("t")
"""
ON_A_SESSION_LOOP = """
    import pytest

    @pytest.mark.asyncio(loop_scope="session")
    async def test_log(dynlog_log):
        await dynlog_log.create_topic("t")
"""
BARE = "[pytest]\nfilterwarnings = error\n"
HEAVY = (
    "aiokafka", "redis", "minio", "nats", "docker", "testcontainers", "pydantic", "msgpack", "asyncio", "sqlite3"
)  # fmt: skip


def test_loading_the_plugin_imports_nothing_but_pytest() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import dynlog.testing.plugin; print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "dynlog.testing.plugin" in loaded
    assert {name for name in loaded if name.partition(".")[0] in HEAVY} == set()
    assert {name for name in loaded if name.startswith("dynlog")} <= {
        "dynlog", "dynlog.testing", "dynlog.testing.plugin", "dynlog.testing.options"
    }  # fmt: skip


async def test_a_run_that_uses_nothing_of_dynlog_loads_nothing_of_it(tmp_path: Path) -> None:
    project = UserProject(
        tmp_path,
        """
        import sys

        def test_it():
            assert "dynlog.testing.plugin" in sys.modules
            assert not {"dynlog.open", "dynlog.testing.kinds", "docker", "testcontainers"} & set(sys.modules)
        """,
    )
    done = await project.run()
    assert done.tests == {"test_it": "PASSED"}, done.output
    assert "dynlog had" not in done.output


async def test_without_an_async_plugin_urls_work_and_open_logs_say_what_is_missing(tmp_path: Path) -> None:
    off = ("-p", "no:asyncio", "-p", "no:anyio")
    plain = await UserProject(tmp_path / "plain", PLAIN, BARE).run(*off)
    assert plain.tests == {"test_url[memory]": "PASSED", "test_url[sqlite]": "PASSED"}, plain.output
    asking = await UserProject(tmp_path / "asking", ASKS_FOR_ASYNC, BARE).run(*off)
    assert set(asking.tests.values()) == {"ERROR"}, asking.output
    assert "dynlog_log is an async fixture and no plugin runs those here: pip install pytest-asyncio" in asking.output
    assert "open_objects(dynlog_objects_url)" in asking.output


async def test_under_anyios_plugin_alone_logs_are_open(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, WITH_ANYIO, BARE).run("-p", "no:asyncio")
    assert done.tests == {"test_log[memory]": "PASSED", "test_log[sqlite]": "PASSED"}, done.output


async def test_a_log_is_open_on_the_loop_that_the_ini_file_names(tmp_path: Path) -> None:
    ini = INI.replace("loop_scope = function", "loop_scope = session")
    done = await UserProject(tmp_path, ON_A_SESSION_LOOP, ini).run()
    assert done.tests == {"test_log[memory]": "PASSED", "test_log[sqlite]": "PASSED"}, done.output


async def test_a_setting_that_does_not_fit_ends_the_run_with_what_would(tmp_path: Path) -> None:
    project = UserProject(tmp_path, PLAIN)
    wrong_image = await project.run("--dynlog-image=mysql=mysql:9")
    assert wrong_image.status == 4, wrong_image.output
    assert "KIND=IMAGE is needed, KIND one of kafka, redis, minio, nats" in wrong_image.output
    wrong_way = await project.run(DYNLOG_SERVERS="cloud")
    assert wrong_way.status == 4, wrong_way.output
    assert "auto, containers or native" in wrong_way.output
