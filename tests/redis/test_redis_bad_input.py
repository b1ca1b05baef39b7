"""What cannot work is refused by an error that says what to change, in time, with no password in it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from dynlog.errors import ConfigurationError, DynlogError, LogError, LogFull, LogUnavailable
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.testing.process import free_port
from dynlog.testing.redis import RedisServer
from dynlog.topics import DurabilityLevel
from tests.conformance.backend import TOPIC, bodies, eventually, fill, records

pytestmark = pytest.mark.timeout(60)
SOON_S = 15.0


async def refusal(url: str, kind: type[DynlogError]) -> str:
    """What opening the URL is refused with."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(SOON_S + 5), open_log(url):
            pass
    assert time.monotonic() - started < SOON_S
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1/0?prefixx=a", "prefix"),
        ("redis://127.0.0.1/0?prefix={a}", "prefix"),
        ("redis://127.0.0.1/0?prefix=", "prefix"),
        ("redis://127.0.0.1/zero", "number of a database"),
        ("redis://127.0.0.1/0?max_batch_bytes=0", "max_batch_bytes"),
        ("redis://127.0.0.1/0?replicas=0", "replicas"),
        ("redis://127.0.0.1/0?tls_verify=false", "rediss://"),
        ("rediss://127.0.0.1/0?tls_verify=maybe", "tls_verify"),
        ("redis:///0", "names no host"),
        ("rediss://127.0.0.1/0?tls_ca=/missing", "tls_ca='/missing'"),
        (f"rediss://127.0.0.1/0?tls_ca={__file__}", "tls_ca cannot be used"),
        (f"rediss://127.0.0.1/0?tls_cert={__file__}", "tls_cert with tls_key cannot be used"),
        (f"rediss://127.0.0.1/0?tls_key={__file__}", "tls_key without tls_cert"),
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused_by_name(url: str, says: str) -> None:
    assert says in await refusal(url, ConfigurationError)


async def test_a_port_where_nobody_listens_is_named() -> None:
    port = free_port()
    said = await refusal(f"redis://127.0.0.1:{port}/0", LogUnavailable)
    assert f"127.0.0.1:{port}: nothing listens there" in said


async def test_a_host_that_is_not_known_is_named() -> None:
    assert "no-such-host.invalid" in await refusal("redis://no-such-host.invalid:6379/0", LogUnavailable)


async def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    async with speaking(lambda _: None) as port:
        assert "did not answer" in await refusal(f"redis://127.0.0.1:{port}/0", LogUnavailable)


async def test_a_server_that_is_no_redis_is_refused() -> None:
    async with speaking(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "is no Redis" in await refusal(f"redis://127.0.0.1:{port}/0", LogUnavailable)


async def test_a_server_that_is_too_old_is_named_with_what_is_needed() -> None:
    said = await refusal_of_old("6.0.16")
    assert "6.0.16" in said
    assert "6.2" in said


async def test_a_wrong_password_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, users={"default": ">hunter2 ~* &* +@all"}) as server:
        place = f"127.0.0.1:{server.port}/0"
        assert "refuses this user and password" in await refusal(f"redis://:hunter2x@{place}", ConfigurationError)
        assert "asks for a password" in await refusal(f"redis://{place}", ConfigurationError)
        async with open_log(f"redis://:hunter2@{place}") as log:
            assert "hunter2" not in log.url


async def test_a_user_without_config_may_use_the_log_and_the_lowest_durability_is_declared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = ">pw ~{mine* &{mine* +@all -@admin -@dangerous +info"
    async with RedisServer(tmp_path, users={"app": rules}) as server:
        async with open_log(f"redis://app:pw@127.0.0.1:{server.port}/0?prefix=mine") as log:
            assert log.capabilities.durability.level is DurabilityLevel.MEMORY
            assert "+config|get" in caplog.text
            await fill(log, 3)
            assert await bodies(log) == ["r0", "r1", "r2"]
            reading = asyncio.create_task(log.read(await log.position(TOPIC, 0, "end"), wait=10))
            await log.append(TOPIC, 0, records("heard"))
            assert len(await reading) == 1
        said = await refusal(f"redis://app:pw@127.0.0.1:{server.port}/0?prefix=others", ConfigurationError)
        assert "ACL" in said


async def test_a_database_that_the_server_does_not_have_is_named(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, appendfsync=None) as server:
        assert "databases" in await refusal(f"redis://127.0.0.1:{server.port}/99", ConfigurationError)


async def test_keys_of_somebody_else_under_the_prefix_are_not_touched(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, appendfsync=None) as server, Redis.from_url(server.url) as plain:
        await plain.set("{theirs}:log", "something")
        assert "?prefix=" in await refusal(f"{server.url}?prefix=theirs", ConfigurationError)
        assert await plain.get("{theirs}:log") == b"something"


async def test_a_log_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    async with RedisServer(tmp_path, appendfsync=None) as server, Redis.from_url(server.url) as plain:
        async with open_log(server.url):
            pass
        await plain.hset("{dynlog}:log", "format", "2")
        assert "format 2" in await refusal(server.url, LogError)


async def test_a_policy_that_throws_records_away_is_refused_by_name(tmp_path: Path) -> None:
    options = {"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}
    async with RedisServer(tmp_path, appendfsync=None, options=options) as server:
        said = await refusal(server.url, ConfigurationError)
        assert "allkeys-lru" in said
        assert "noeviction" in said


async def test_a_full_server_refuses_an_append_whole_and_takes_it_once_there_is_room(tmp_path: Path) -> None:
    options = {"maxmemory": "8mb", "maxmemory-policy": "noeviction"}
    async with RedisServer(tmp_path, appendfsync=None, options=options) as server, open_log(server.url) as log:
        await log.create_topic(TOPIC)
        piece = [Record(parts=(b"x" * 200_000,))]

        async def fill_up() -> None:
            while True:
                await log.append(TOPIC, 0, piece)

        with pytest.raises(LogFull, match="maxmemory"):
            await fill_up()
        stored = (await log.partitions(TOPIC))[0].end
        assert len(await bodies(log)) == stored > 0
        await log.truncate(TOPIC, 0, stored)
        assert (await log.append(TOPIC, 0, piece)).offsets == (stored,)


async def test_a_server_that_cannot_write_its_data_refuses_by_name_and_goes_on_once_it_can(tmp_path: Path) -> None:
    options = {"save": "3600 1", "dbfilename": "taken"}
    async with (
        RedisServer(tmp_path, appendfsync=None, options=options) as server,
        open_log(server.url) as log,
        Redis.from_url(server.url) as plain,
    ):
        await fill(log, 1)
        (tmp_path / "taken").mkdir()
        await plain.bgsave()

        async def failed() -> bool:
            return bool((await plain.info("persistence"))["rdb_last_bgsave_status"] == "err")

        await eventually(failed, "a save failed")
        with pytest.raises(LogUnavailable, match="disk space"):
            await log.append(TOPIC, 0, records("a"), timeout=2)
        assert await bodies(log) == ["r0"]
        await plain.config_set("stop-writes-on-bgsave-error", "no")
        assert (await log.append(TOPIC, 0, records("a"))).offsets == (1,)
        await server.kill()  # it would not end by itself without having saved


async def test_opening_waits_for_a_server_that_is_loading_its_data(tmp_path: Path) -> None:
    options = {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024"}
    async with RedisServer(tmp_path, appendfsync=None, options=options) as server:
        async with open_log(server.url) as log:
            await log.create_topic(TOPIC, partitions=50)
            await log.append(TOPIC, 0, records("kept"))
        async with Redis.from_url(server.url) as plain:
            await plain.save()
        await server.kill()
        await server.start()
        async with open_log(server.url) as log:
            assert await bodies(log) == ["kept"]


async def test_a_replica_is_refused_and_a_primary_that_becomes_one_says_so(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "p") as primary, open_log(primary.url) as log:
        await fill(log, 1)
        options = {"replicaof": f"127.0.0.1 {primary.port}"}
        async with RedisServer(tmp_path / "r", options=options) as replica:
            assert "replica" in await refusal(replica.url, LogUnavailable)
        async with Redis.from_url(primary.url) as plain:
            await plain.replicaof("127.0.0.1", free_port())
            with pytest.raises(LogUnavailable, match="replica"):
                await log.append(TOPIC, 0, records("a"), timeout=2)
            await plain.replicaof("NO", "ONE")
        await log.append(TOPIC, 0, records("b"))


async def test_appends_wait_for_as_many_replicas_as_the_url_asks_for(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "p") as primary, open_log(f"{primary.url}?replicas=1") as log:
        assert str(log.capabilities.durability) == "replicated(2)"
        await log.create_topic(TOPIC)
        with pytest.raises(LogError, match="0 of 1 replicas"):
            await log.append(TOPIC, 0, records("alone"), timeout=0.5)
        options = {"replicaof": f"127.0.0.1 {primary.port}", "repl-diskless-sync-delay": "0"}
        async with RedisServer(tmp_path / "r", options=options), Redis.from_url(primary.url) as plain:
            await plain.config_set("repl-diskless-sync-delay", 0)

            async def online() -> bool:
                return "online" in repr(await plain.info("replication"))

            await eventually(online, "the replica follows")
            assert (await log.append(TOPIC, 0, records("two"), timeout=10)).offsets == (1,)


# TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with an authority, and a certificate of it for 127.0.0.1."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
        "-subj", "/CN=test authority",
    )  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"
    )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out",
        "server.crt", "-days", "2", "-extfile", "san",
    )  # fmt: skip
    return folder


async def test_tls_works_with_the_right_authority_and_every_other_way_is_refused(
    certificates: Path, tmp_path: Path
) -> None:
    async with RedisServer(tmp_path / "s", tls=certificates) as server, RedisServer(tmp_path / "p") as plain:
        ca = f"tls_ca={certificates / 'ca.crt'}"
        async with open_log(f"{server.url}?{ca}") as log:
            await fill(log, 3)
            assert await bodies(log) == ["r0", "r1", "r2"]
            reading = asyncio.create_task(log.read(await log.position(TOPIC, 0, "end"), wait=10))
            await log.append(TOPIC, 0, records("heard"))
            assert len(await reading) == 1
        async with open_log(f"{server.url}?tls_verify=false") as log:
            assert len(await bodies(log)) == 4
        assert "tls_ca" in await refusal(server.url, ConfigurationError)
        assert "speak TLS" in await refusal(f"rediss://127.0.0.1:{plain.port}/0?{ca}", DynlogError)
        assert "rediss://" in await refusal(f"redis://127.0.0.1:{server.port}/0", LogUnavailable)
        missing = await refusal(f"{server.url}?tls_ca={tmp_path / 'missing.crt'}", ConfigurationError)
        assert "file" in missing


# Servers that are not what they should be


@asynccontextmanager
async def speaking(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[int]:
    """A port that gives one answer to whatever is said."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(1 << 16):
            reply = answer(said)
            if reply is not None:
                writer.write(reply)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def refusal_of_old(version: str) -> str:
    """What opening a log on a server of that version is refused with."""
    info = f"# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\nrun_id:{'a' * 40}\r\n".encode()
    roles = b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"

    def answer(said: bytes) -> bytes:
        if b"SETINFO" in said:
            return b"-ERR unknown subcommand\r\n" * said.count(b"SETINFO")
        clock = b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"
        return b"$%d\r\n%b\r\n$%d\r\n%b\r\n*0\r\n*0\r\n%b" % (len(info), info, len(roles), roles, clock)

    async with speaking(answer) as port:
        return await refusal(f"redis://127.0.0.1:{port}/0", ConfigurationError)
