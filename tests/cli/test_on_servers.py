"""The commands on real servers, as who runs them meets them: what they say of themselves, and of what is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dynlog.cli.log_read import _copy, _Outage, _Wanted
from dynlog.cli.log_records import text_line
from dynlog.cli.log_topics import topic_json
from dynlog.errors import LogUnavailable
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.testing.kinds import RunningServer
from dynlog.testing.redis import RedisServer
from dynlog.topics import Retention, Topic
from tests.cli.conftest import Cli
from tests.cli.process import Dynlog, dynlog

pytestmark = pytest.mark.timeout(120)


async def test_the_demo_says_what_its_log_promises_and_shows_no_password_to_anybody(tmp_path: Path) -> None:
    users = {"default": ">hunter2 ~* &* +@all"}
    async with RedisServer(tmp_path / "r", appendfsync=None, users=users) as server:
        url = f"redis://:hunter2@127.0.0.1:{server.port}/0"
        async with Dynlog.start("demo", "--log", url) as demo:
            said = await demo.line()
            children = [line for line in command_lines() if "demo_router" in line]
            ended = await demo.ended()
    assert said.endswith(f"into redis://:***@127.0.0.1:{server.port}/0")
    assert children
    assert not any("hunter2" in line for line in children)
    assert (ended.status, ended.err) == (0, "")
    assert "all of them acknowledged (durability of this log: memory)" in ended.out
    assert "hunter2" not in ended.out


async def test_who_follows_a_log_rides_out_an_outage_of_its_server_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.storage.redis.reading.READ_PATIENCE_S", 0.3)
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Output:
        async def write(self, data: bytes) -> None:
            for line in data.decode().splitlines():
                heard.put_nowait(line.split()[-1])

    async def next_heard() -> str:
        async with asyncio.timeout(30):
            return await heard.get()

    async with RedisServer(tmp_path / "r") as server, open_log(server.url) as log:
        await log.create_topic("t")
        wanted = _Wanted("t", None, "earliest", None, text_line)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(_copy(log, wanted, Output(), follow=True))  # type: ignore[arg-type]
            await log.append("t", 0, [Record(parts=(b"before",))])
            assert await next_heard() == "before"
            await server.kill()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(following), 3)  # longer than the patience of a read
            await server.start()
            await log.append("t", 0, [Record(parts=(b"after",))])
            assert await next_heard() == "after"
            following.cancel()


async def test_a_log_that_stays_away_ends_who_follows_it_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    outage, error = _Outage(), LogUnavailable("gone")
    await outage.ride_out(error)
    monkeypatch.setattr("dynlog.cli.log_read.OUTAGE_S", 0.0)
    with pytest.raises(LogUnavailable, match="gone"):
        await outage.ride_out(error)


def test_a_demo_whose_bucket_is_not_there_says_so_in_one_line(cli: Cli, minio_server: RunningServer) -> None:
    place = f"s3://{minio_server.user}:{minio_server.password}@no-such-bucket?endpoint={minio_server.url}"
    outcome = cli("demo", "--objects", place)
    assert outcome.status == 2
    assert "no such bucket" in outcome.complaint
    assert minio_server.password not in outcome.err or minio_server.password == minio_server.user


@pytest.mark.parametrize("url", ["--log=memory://shared", "--objects=memory://shared"])
def test_a_demo_in_the_memory_of_one_process_is_refused(cli: Cli, url: str) -> None:
    outcome = cli("demo", url)
    assert outcome.status == 2
    assert "cannot lie in memory://" in outcome.complaint


@pytest.mark.parametrize("answer", [b"\0" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"])
@pytest.mark.parametrize("scheme", ["kafka", "redis"])
async def test_what_is_no_broker_is_one_line_and_no_library_adds_a_traceback(scheme: str, answer: bytes) -> None:
    async with speaking(answer) as port:
        outcome = await dynlog("log", "topics", "--log", f"{scheme}://127.0.0.1:{port}")
    assert outcome.status in (1, 2)
    assert f"127.0.0.1:{port}" in outcome.complaint


def test_describe_says_whose_clock_log_time_is(cli: Cli, kafka_server: RunningServer) -> None:
    for url, server in ((f"{kafka_server.url}/clock", True), ("memory://clock", False)):
        said = json.loads(cli("log", "describe", "--log", url, "--json").out)
        assert said["capabilities"]["server_time"] is server


def test_a_topic_that_others_made_has_no_time_of_creation_rather_than_1970() -> None:
    foreign = Topic("theirs", "i", 1, Retention(), 0)
    assert topic_json(foreign)["created"] is None


def test_an_object_that_does_not_expire_expires_never(cli: Cli, tmp_path: Path) -> None:
    place = f"file://{tmp_path}/objects//k"
    cli("objects", "put", "-", place, stdin=b"x")
    assert "expires   never" in cli("objects", "head", place).lines


def command_lines() -> list[str]:
    """Those of all processes of this host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return found


@asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[int]:
    """A port that gives one answer to whatever is said."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1 << 16):
                writer.write(answer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
