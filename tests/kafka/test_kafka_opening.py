"""What a wrong URL, a wrong port, wrong credentials or a wrong server say, and that they say it in time."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import pytest_asyncio

from dynlog.errors import ConfigurationError, DynlogError, LogUnavailable
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.storage.kafka.admin import _created
from dynlog.storage.kafka.failures import TRANSIENT
from dynlog.testing.kafka import KafkaServer
from dynlog.testing.kinds import RunningServer
from dynlog.testing.process import free_port

IN_TIME_S = 60.0
"""Four times what opening may take: the machine that tests may be busy."""


async def refusal(url: str) -> DynlogError:
    started = time.monotonic()
    with pytest.raises(DynlogError) as caught:
        async with open_log(url):
            pass
    assert time.monotonic() - started < IN_TIME_S
    return caught.value


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("kafka://", "broker"),
        ("kafka:///prefix", "broker"),
        ("kafka://h:9092/a/b", "prefix"),
        ("kafka://h:9092/a.b", "prefix"),
        ("kafka://h:9092,h2:port/a", "URL"),
        ("kafka://h/a?nosuch=1", "nosuch"),
        ("kafka://h/a?compression=rar", "compression"),
        ("kafka://h/a?sasl=plain", "user"),
        ("kafka://user@h/a", "password"),
        ("kafka://h/a?tls_ca=/nowhere", "tls=true"),
        ("kafka://h/a?tls=true&tls_ca=/nowhere", "tls_ca"),
        ("kafka://h/a?max_batch_bytes=0", "max_batch_bytes"),
    ],
)
async def test_what_cannot_work_is_named(url: str, named: str) -> None:
    error = await refusal(url)
    assert isinstance(error, ConfigurationError)
    assert named in str(error)


async def test_a_port_where_nobody_listens_is_named_in_time_and_the_password_is_not() -> None:
    port = free_port()
    error = await refusal(f"kafka://me:s3cret@127.0.0.1:{port}/a")
    assert isinstance(error, LogUnavailable)
    assert str(port) in str(error)
    assert "s3cret" not in str(error)


async def test_a_host_that_does_not_exist_is_named_in_time() -> None:
    assert "nosuch.invalid" in str(await refusal("kafka://nosuch.invalid:9092/a"))


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    release = asyncio.Event()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert str(port) in str(await refusal(f"kafka://127.0.0.1:{port}/a"))
    finally:
        release.set()
        server.close()


async def test_a_broker_that_is_too_old_is_called_so() -> None:
    """One that knows its versions and no topic ids yet."""

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while size := await reader.read(4):
            request = await reader.readexactly(int.from_bytes(size, "big"))
            answer = request[4:8] + struct.pack(">hi3h3h", 0, 2, 18, 0, 0, 3, 0, 8)
            writer.write(struct.pack(">i", len(answer)) + answer)
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        error = await refusal(f"kafka://{address}/a")
    finally:
        server.close()
    assert isinstance(error, ConfigurationError)
    assert f"the broker {address} is older than Kafka" in str(error)


async def test_tls_with_a_broker_that_speaks_none_says_so(kafka_server: RunningServer) -> None:
    error = await refusal(f"kafka://{kafka_server.address}/a?tls=true")
    assert "TLS" in str(error)


async def test_more_than_the_brokers_limit_is_refused_at_opening(kafka_url: str) -> None:
    error = await refusal(f"{kafka_url}?max_batch_bytes=100000000")
    assert isinstance(error, ConfigurationError)
    assert "message.max.bytes" in str(error)


async def test_a_dead_broker_among_the_named_ones_is_passed_over(kafka_server: RunningServer) -> None:
    async with open_log(f"kafka://127.0.0.1:{free_port()},{kafka_server.address}/multi") as log:
        await log.create_topic("t", exist_ok=True)
        await log.append("t", 0, [Record()])


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """(certificate, certificate with its key) of a name that signs for itself."""
    key, chain, both = (folder / f"{name}.{kind}" for kind in ("key", "crt", "pem"))
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain]  # type: ignore[list-item]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    both.write_text(key.read_text() + chain.read_text())
    return chain, both


class Guarded(NamedTuple):
    """A broker that on one port wants the user ``me`` with the password ``right``, on another one TLS; on a third one
    listens its controller."""

    with_password: str
    with_tls: str
    chain: Path
    controller: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(kafka_program: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("kafka-guarded")
    chain, both = certificate(folder, "broker")
    ports = {name: free_port() for name in ("SASL_PLAINTEXT", "SSL", "CONTROLLER")}
    jaas = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="me" password="right" user_me="right";'
    )
    listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    settings = {
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": f"{listeners['SASL_PLAINTEXT']},{listeners['SSL']}",
        "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_PLAINTEXT",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(chain),
    }
    port, voters = ports["SASL_PLAINTEXT"], {1: ports["CONTROLLER"]}
    async with KafkaServer(folder / "kafka", kafka_program, port=port, voters=voters, settings=settings):
        yield Guarded(f"127.0.0.1:{port}", f"127.0.0.1:{ports['SSL']}", chain, f"127.0.0.1:{ports['CONTROLLER']}")


async def test_a_controllers_listener_is_called_so_and_not_too_old(guarded: Guarded) -> None:
    error = await refusal(f"kafka://{guarded.controller}/a")
    assert isinstance(error, ConfigurationError)
    assert f"{guarded.controller} is a controller's listener" in str(error)
    assert "name a broker's" in str(error)
    assert "older" not in str(error)


def test_a_cluster_whose_brokers_are_fenced_for_now_is_waited_for() -> None:
    """What Kafka 4.1 says of brokers that were stopped for longer than their session."""

    def answer(message: str) -> SimpleNamespace:
        return SimpleNamespace(topic_errors=[("t", 38, f"Unable to replicate the partition 3 time(s): {message}")])

    assert _created("t")(answer("All brokers are currently fenced.")) in TRANSIENT
    with pytest.raises(ConfigurationError, match="only 1"):
        _created("t")(answer("only 1 broker(s) are registered."))


async def test_credentials_are_checked_and_what_is_wrong_with_them_is_said(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = guarded.with_password
    async with open_log(f"kafka://me:right@{address}/a") as log:
        await log.create_topic("t")
        assert "right" not in log.url
    wrong, unknown, unnamed = await asyncio.gather(
        refusal(f"kafka://me:wrong@{address}/a"),
        refusal(f"kafka://me:right@{address}/a?sasl=scram-sha-512"),
        refusal(f"kafka://{address}/a"),
    )
    assert isinstance(wrong, ConfigurationError)
    assert "me" in str(wrong)
    assert isinstance(unknown, ConfigurationError)
    assert "user" in str(unnamed)
    monkeypatch.setenv("DYNLOG_KAFKA_USER", "me")
    monkeypatch.setenv("DYNLOG_KAFKA_PASSWORD", "right")
    async with open_log(f"kafka://{address}/a") as log:
        assert (await log.topic("t")).partitions == 1


async def test_tls_is_spoken_and_what_is_wrong_with_it_is_said(guarded: Guarded, tmp_path: Path) -> None:
    stranger, _ = certificate(tmp_path, "stranger")
    address = guarded.with_tls
    async with open_log(f"kafka://{address}/b?tls=true&tls_ca={guarded.chain}") as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        assert len(await log.read(await log.position("t", 0))) == 1
    distrusted, in_the_clear = await asyncio.gather(
        refusal(f"kafka://{address}/b?tls=true&tls_ca={stranger}"), refusal(f"kafka://{address}/b")
    )
    assert isinstance(distrusted, ConfigurationError)
    assert "tls_ca" in str(distrusted)
    assert "tls=true" in str(in_the_clear)
