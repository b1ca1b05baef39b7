"""A native server is shared by the session and gone with it, however the session ends."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.testing.user_project import PATIENCE_S, UserProject, refuses_connections

ONE_SERVER = """
    import pathlib

    def test_first(nats_server): pathlib.Path("first").write_text(nats_server.url)

    def test_second(nats_server): assert pathlib.Path("first").read_text() == nats_server.url

    def test_port(nats_server): pathlib.Path(f"port-{nats_server.port}").touch()
"""
TWO_WORKERS = """
    import pathlib, pytest

    @pytest.mark.parametrize("turn", range(8))
    def test_it(nats_server, worker_id, turn): pathlib.Path(f"{worker_id}-{nats_server.port}").touch()
"""
STAYS = """
    import signal, sys, time

    # Who was started in the background by a shell ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def test_it(nats_server):
        print(f"port {nats_server.port}", file=sys.__stdout__, flush=True)
        time.sleep(600)
"""
MISSING = """
    def test_nats(nats_server): pass
    def test_nats_again(nats_server): pass
    def test_other(): pass
"""


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def test_a_session_has_one_server_and_leaves_none(tmp_path: Path) -> None:
    project = UserProject(tmp_path, ONE_SERVER)
    done = await project.run()
    assert set(done.tests.values()) == {"PASSED"}, done.output
    (port,) = (int(path.name.removeprefix("port-")) for path in files(tmp_path, "port-*"))
    assert await refuses_connections(port)
    assert f"dynlog had nats at 127.0.0.1:{port}: process " in done.output


async def test_each_worker_of_xdist_has_a_server_of_its_own(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, TWO_WORKERS).run("-n2", "--dist=load")
    assert done.status == 0, done.output
    had = [path.name.split("-") for path in files(tmp_path, "gw*-*")]
    assert {worker for worker, _ in had} == {"gw0", "gw1"}
    assert len({port for _, port in had}) == len(had) == 2
    assert all([await refuses_connections(int(port)) for _, port in had])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_a_run_that_is_interrupted_or_killed_leaves_no_server(tmp_path: Path, end: signal.Signals) -> None:
    async with UserProject(tmp_path, STAYS).started("-s") as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        port = None
        async for line in process.stdout:
            if b"port " in line:
                port = int(line.rpartition(b"port ")[2])
                break
        assert port is not None
        process.send_signal(end)
        await process.stdout.read()
        await process.wait()
    assert await refuses_connections(port)


async def test_a_server_that_cannot_be_had_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    nothing = {"PATH": "/nowhere", "DYNLOG_CACHE": str(tmp_path / "empty")}
    done = await UserProject(tmp_path, MISSING).run(**nothing)
    assert done.tests == {"test_nats": "ERROR", "test_nats_again": "ERROR", "test_other": "PASSED"}, done.output
    assert "nats-server is neither on PATH nor in " in done.output
    assert "`make servers` provides it" in done.output
    assert "--dynlog-skip-missing skips such tests instead" in done.output
    assert "Traceback" not in done.output


async def test_a_missing_server_is_skipped_only_when_that_was_asked_for(tmp_path: Path) -> None:
    nothing = {"PATH": "/nowhere", "DYNLOG_CACHE": str(tmp_path / "empty")}
    done = await UserProject(tmp_path, MISSING).run("--dynlog-skip-missing", **nothing)
    assert done.status == 0, done.output
    assert "1 passed, 2 skipped" in done.output


async def test_without_testcontainers_the_error_names_what_to_install(tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules['testcontainers'] = None\ndef test_it(nats_server): pass\n"
    done = await UserProject(tmp_path, hidden).run(DYNLOG_SERVERS="containers")
    assert done.tests == {"test_it": "ERROR"}, done.output
    assert "is not installed (pip install 'dynlog[testing]')" in done.output


async def test_without_a_daemon_auto_takes_the_native_program_and_containers_says_why_not(tmp_path: Path) -> None:
    project = UserProject(tmp_path, "def test_it(nats_server): assert nats_server.source.startswith('process ')")
    nobody = f"unix://{tmp_path}/docker.sock"
    native = await project.run(DOCKER_HOST=nobody, DYNLOG_SERVERS="auto")
    assert native.tests == {"test_it": "PASSED"}, native.output
    refused = await project.run(DOCKER_HOST=nobody, DYNLOG_SERVERS="containers")
    assert refused.tests == {"test_it": "ERROR"}, refused.output
    assert "no container: no Docker daemon answers" in refused.output
    assert "start Docker to have nats:" in refused.output
