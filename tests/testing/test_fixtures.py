"""The fixtures that are named after servers, and logs and stores on them.

`make test` takes the servers from native programs and `make test-containers` from containers, for the same tests.
"""

from __future__ import annotations

import base64
import io
import os

import httpx
import nats
import pytest
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from minio import Minio

from dynlog import Log, ObjectStore, Record
from dynlog.open import LOG_ENGINES, OBJECT_STORES
from dynlog.testing.kinds import KINDS, RunningServer

ENGINES = [name for name in ("memory", "sqlite", "redis", "kafka") if name in LOG_ENGINES]
STORES = [name for name in ("memory", "file", "s3") if name in OBJECT_STORES]


async def test_nats_has_jetstream(nats_server: RunningServer, dynlog_namespace: str) -> None:
    client = await nats.connect(nats_server.url, allow_reconnect=False)
    stream = await client.jetstream().add_stream(name=dynlog_namespace, subjects=[dynlog_namespace])
    assert (await client.jetstream().publish(dynlog_namespace, b"x")).stream == stream.config.name
    await client.close()


def test_etcd_answers_over_its_json_gateway(etcd_server: RunningServer, dynlog_namespace: str) -> None:
    key = base64.b64encode(dynlog_namespace.encode()).decode()
    with httpx.Client(base_url=etcd_server.url) as client:
        assert client.post("/v3/kv/put", json={"key": key, "value": key}).status_code == 200
        assert client.post("/v3/kv/range", json={"key": key}).json()["kvs"][0]["value"] == key


async def test_what_redis_acknowledges_is_on_disk(redis_server: RunningServer, dynlog_namespace: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        assert await client.set(dynlog_namespace, b"x")
        assert (await client.config_get("append*"))["appendfsync"] == "always"
        assert (await client.info("persistence"))["aof_enabled"] == 1


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_server_comes_from_where_the_run_says(request: pytest.FixtureRequest, kind: str) -> None:
    server: RunningServer = request.getfixturevalue(f"{kind}_server")
    wanted = os.environ.get("DYNLOG_SERVERS")
    assert server.kind == kind
    assert server.source.startswith({"containers": "container ", "native": "process "}.get(wanted or "", ""))


async def test_kafka_takes_and_gives_records(kafka_server: RunningServer, dynlog_namespace: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka_server.address) as producer:
        await producer.send_and_wait(dynlog_namespace, b"x")
    async with AIOKafkaConsumer(
        dynlog_namespace, bootstrap_servers=kafka_server.address, auto_offset_reset="earliest"
    ) as consumer:
        assert (await consumer.getone()).value == b"x"


def test_minio_takes_and_gives_objects(minio_server: RunningServer, dynlog_namespace: str) -> None:
    client = Minio(minio_server.address, access_key=minio_server.user, secret_key=minio_server.password, secure=False)
    client.make_bucket(dynlog_namespace)
    client.put_object(dynlog_namespace, "key", io.BytesIO(b"x"), 1)
    answer = client.get_object(dynlog_namespace, "key")
    try:
        assert answer.read() == b"x"
    finally:
        answer.close()
        answer.release_conn()


@pytest.mark.dynlog_engines(*ENGINES)
@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_a_log_of_its_own_also_on_a_shared_server(dynlog_log: Log, turn: int) -> None:
    assert await dynlog_log.topics() == []
    await dynlog_log.create_topic("same-name")
    await dynlog_log.append("same-name", 0, [Record(parts=(b"x",))])
    assert len(await dynlog_log.read(await dynlog_log.position("same-name", 0))) == 1, turn


@pytest.mark.dynlog_stores(*STORES)
@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_a_store_of_its_own_also_on_a_shared_server(dynlog_objects: ObjectStore, turn: int) -> None:
    assert [item async for item in dynlog_objects.list()] == []
    await dynlog_objects.put("key", b"body")
    assert await dynlog_objects.get_bytes("key") == b"body", turn
