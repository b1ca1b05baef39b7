"""What only containers can show; `make test-containers` runs it, no other run collects it (its name is no test's)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import docker
import docker.errors

from tests.testing.user_project import PATIENCE_S, UserProject

CONTAINERS = {name: value for name, value in os.environ.items() if name.startswith("DYNLOG_IMAGE_")}
CONTAINERS["DYNLOG_SERVERS"] = "containers"
USES = """
    def test_redis(redis_server): assert redis_server.source.startswith("container ")
    def test_nats(nats_server): pass
"""
STAYS = """
    import sys, time

    def test_it(nats_server):
        print(nats_server.source, file=sys.__stdout__, flush=True)
        time.sleep(600)
"""


def is_there(container_id: str) -> bool:
    client = docker.from_env()
    try:
        client.containers.get(container_id)
    except docker.errors.NotFound:
        return False
    finally:
        client.close()
    return True


async def test_a_session_leaves_no_container(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, USES).run(**CONTAINERS)
    assert set(done.tests.values()) == {"PASSED"}, done.output
    had = re.findall(r"dynlog had \S+ at \S+: container (\w+)", done.output)
    assert len(had) == 2
    assert [container for container in had if is_there(container)] == []


async def test_an_interrupted_run_leaves_no_container(tmp_path: Path) -> None:
    async with UserProject(tmp_path, STAYS).started("-s", **CONTAINERS) as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        found = None
        async for line in process.stdout:
            if found := re.search(rb"container (\w+) of", line):
                break
        assert found is not None
        assert is_there(found[1].decode())
        process.send_signal(signal.SIGINT)
        await process.stdout.read()
        await process.wait()
    assert not is_there(found[1].decode())


async def test_an_image_that_cannot_be_had_is_an_error_that_names_it(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, "def test_it(nats_server): pass").run(
        "--dynlog-image=nats=127.0.0.1:1/no-such-image:1", **CONTAINERS
    )
    assert done.tests == {"test_it": "ERROR"}, done.output
    assert "the image 127.0.0.1:1/no-such-image:1 is not here and cannot be pulled" in done.output


async def test_auto_takes_a_container_and_the_native_program_only_where_no_image_can_be_had(tmp_path: Path) -> None:
    project = UserProject(tmp_path, "def test_it(nats_server): pass")
    auto = {**CONTAINERS, "DYNLOG_SERVERS": "auto"}
    assert re.search(r"dynlog had nats at \S+: container ", (await project.run(**auto)).output)
    elsewhere = (await project.run("--dynlog-image=nats=127.0.0.1:1/no-such-image:1", **auto)).output
    assert re.search(r"dynlog had nats at \S+: process ", elsewhere)


async def test_a_container_that_does_not_answer_is_removed_and_its_log_is_shown(tmp_path: Path) -> None:
    # A Redis image where a NATS server is wanted: the command makes no sense to it.
    done = await UserProject(tmp_path, "def test_it(nats_server): pass").run(
        f"--dynlog-image=nats={CONTAINERS['DYNLOG_IMAGE_REDIS']}", **CONTAINERS
    )
    assert done.tests == {"test_it": "ERROR"}, done.output
    assert "did not start" in done.output
