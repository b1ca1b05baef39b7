"""What groups commit is shown to Kafka's own tools, behind the commits and never in their way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from dynlog.errors import CommitFenced, LogUnavailable
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.storage.kafka import mirror
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.wires import Purpose
from dynlog.testing.kinds import RunningServer

CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
"""What kafka-consumer-groups.sh runs."""
SHOWN_S = 20.0


def prefix_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


@pytest.fixture
async def admin(kafka_server: RunningServer) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client of a broker that has a coordinator: it makes its topic of offsets when first asked for one."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await client.start()
    try:
        async with asyncio.timeout(SHOWN_S):
            while not await has_coordinator(client):
                pass
        yield client
    finally:
        await client.close()


async def has_coordinator(client: AIOKafkaAdminClient) -> bool:
    try:
        await client.find_coordinator("any")
    except GroupCoordinatorNotAvailableError:
        await asyncio.sleep(0.02)
        return False
    return True


async def filled(log: Log) -> None:
    """Two partitions of ten records."""
    await log.create_topic("events", partitions=2)
    for partition in range(2):
        await log.append("events", partition, [Record()] * 10)


async def offsets(admin: AIOKafkaAdminClient, group: str) -> dict[tuple[str, int], int]:
    found = await admin.list_consumer_group_offsets(group)
    return {(place.topic, place.partition): told.offset for place, told in found.items()}


async def shown(admin: AIOKafkaAdminClient, group: str, expected: dict[tuple[str, int], int]) -> None:
    """Until Kafka shows exactly that."""
    async with asyncio.timeout(SHOWN_S):
        while True:
            if await offsets(admin, group) == expected:
                return
            await asyncio.sleep(0.02)


class Coordinator:
    """Sees what is asked of group coordinators, and answers as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[tuple[str, list[tuple[int, int, str]]]]] = []
        self.most_at_once = 0
        self.arrived = asyncio.Event()
        self.let_through = asyncio.Event()
        self.failure: Exception | None = None
        self._at_once = 0
        ask = Cluster.ask_node

        async def ask_node(cluster: Cluster, node: int, purpose: Purpose, request: Any, deadline: Any) -> Any:
            if purpose is not Purpose.MIRROR:
                return await ask(cluster, node, purpose, request, deadline)
            self.asked.append(request._topics)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.arrived.set()
            try:
                if self.failure is not None:
                    raise self.failure
                await self.let_through.wait()
                return await ask(cluster, node, purpose, request, deadline)
            finally:
                self._at_once -= 1

        monkeypatch.setattr(Cluster, "ask_node", ask_node)


@pytest.fixture
async def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    return Coordinator(monkeypatch)


def mirrors() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "dynlog-kafka-mirror"]


async def test_kafka_consumer_groups_shows_the_lag_of_our_groups(
    kafka_url: str, kafka_server: RunningServer, kafka_program: Path, admin: AIOKafkaAdminClient
) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        await log.commit("workers", "events", {0: 4, 1: 10}, generation=generation)
        await shown(admin, group, {(topic, 0): 4, (topic, 1): 10})
    tool = await asyncio.create_subprocess_exec(
        kafka_program, CONSUMER_GROUPS, "--bootstrap-server", kafka_server.address, "--describe", "--group", group,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, _ = await tool.communicate()
    rows = [line.split() for line in output.decode().splitlines() if line.startswith(group)]
    assert sorted((row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5])) for row in rows) == [
        (topic, 0, 4, 10, 6),
        (topic, 1, 10, 10, 0),
    ]


async def test_what_was_committed_last_is_shown_when_close_returns(kafka_url: str, admin: AIOKafkaAdminClient) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        for offset in range(1, 10):
            await log.commit("workers", "events", {0: offset}, generation=generation)
    assert await offsets(admin, group) == {(topic, 0): 9}


async def test_a_seek_back_is_shown_and_so_is_what_is_committed_after_it(
    kafka_url: str, admin: AIOKafkaAdminClient
) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    async with open_log(kafka_url) as log:
        await filled(log)
        old = await log.open_generation("workers", "events")
        await log.commit("workers", "events", {0: 8}, generation=old)
        new = await log.open_generation("workers", "events", {0: 2})
        await shown(admin, group, {(topic, 0): 2})
        await log.commit("workers", "events", {0: 3}, generation=new)
        with pytest.raises(CommitFenced):
            await log.commit("workers", "events", {0: 9}, generation=old)
        await shown(admin, group, {(topic, 0): 3})


async def test_a_log_without_a_prefix_leaves_kafka_groups_of_the_same_name_alone(
    kafka_server: RunningServer, admin: AIOKafkaAdminClient, kafka_url: str
) -> None:
    name = prefix_of(kafka_url)
    theirs = AIOKafkaConsumer(bootstrap_servers=kafka_server.address, group_id=name, enable_auto_commit=False)
    await theirs.start()
    try:
        async with open_log(f"kafka://{kafka_server.address}/") as log:
            await log.create_topic(name)
            await log.append(name, 0, [Record()] * 10)
            theirs.assign([TopicPartition(name, 0)])
            await theirs.commit({TopicPartition(name, 0): 7})
            generation = await log.open_generation(name, name)
            await log.commit(name, name, {0: 3}, generation=generation)
        assert await offsets(admin, f"dynlog.{name}") == {(name, 0): 3}
        assert await offsets(admin, name) == {(name, 0): 7}
    finally:
        await theirs.stop()


async def test_a_refusal_harms_no_commit_and_is_logged_once(
    kafka_url: str, kafka_server: RunningServer, admin: AIOKafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka takes no positions from outside for a group that has members."""
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    async with open_log(kafka_url) as log:
        await filled(log)
        member = AIOKafkaConsumer(topic, bootstrap_servers=kafka_server.address, group_id=group,
                                  enable_auto_commit=False)  # fmt: skip
        await member.start()
        try:
            generation = await log.open_generation("workers", "events")
            for offset in (1, 2, 3):
                await log.commit("workers", "events", {0: offset}, generation=generation)
                await asyncio.gather(*mirrors())
        finally:
            await member.stop()
        assert dict((await log.committed("workers", "events")).positions) == {0: 3}
    (refusal,) = [record.getMessage() for record in caplog.records if record.name == mirror.__name__]
    assert group in refusal
    assert await offsets(admin, group) == {}


async def test_commits_do_not_wait_for_the_coordinator_and_only_the_newest_are_sent_one_request_at_a_time(
    kafka_url: str, admin: AIOKafkaAdminClient, coordinator: Coordinator
) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        await log.commit("workers", "events", {0: 1}, generation=generation)
        async with asyncio.timeout(SHOWN_S):
            await coordinator.arrived.wait()
        for offset in range(2, 10):
            await log.commit("workers", "events", {0: offset, 1: offset - 1}, generation=generation)
        assert coordinator.asked == [[(topic, [(0, 1, "")])]], "eight commits returned while the first was not shown"
        coordinator.let_through.set()
        await shown(admin, group, {(topic, 0): 9, (topic, 1): 8})
    assert coordinator.asked[1:] == [[(topic, [(0, 9, ""), (1, 8, "")])]]
    assert coordinator.most_at_once == 1


async def test_a_coordinator_that_was_away_is_told_once_it_is_back(
    kafka_url: str, admin: AIOKafkaAdminClient, coordinator: Coordinator
) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    coordinator.failure = LogUnavailable("away")
    coordinator.let_through.set()
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        await log.commit("workers", "events", {0: 5}, generation=generation)
        async with asyncio.timeout(SHOWN_S):
            await coordinator.arrived.wait()
        coordinator.failure = None
        await shown(admin, group, {(topic, 0): 5})


async def test_a_coordinator_that_stays_away_is_logged_once_and_told_of_the_next_commit(
    kafka_url: str,
    admin: AIOKafkaAdminClient,
    coordinator: Coordinator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group, topic = f"{prefix_of(kafka_url)}.workers", f"{prefix_of(kafka_url)}.events"
    monkeypatch.setattr(mirror, "GIVE_UP_S", 0.0)
    coordinator.failure = LogUnavailable("gone for good")
    coordinator.let_through.set()
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        for offset in (1, 2):
            await log.commit("workers", "events", {0: offset}, generation=generation)
            await asyncio.gather(*mirrors())
        coordinator.failure = None
        await log.commit("workers", "events", {1: 3}, generation=generation)
        await shown(admin, group, {(topic, 0): 2, (topic, 1): 3})
    (warning,) = [record.getMessage() for record in caplog.records if record.name == mirror.__name__]
    assert "gone for good" in warning


async def test_close_returns_soon_and_leaves_no_task_although_the_coordinator_does_not_answer(
    kafka_url: str, coordinator: Coordinator
) -> None:
    async with open_log(kafka_url) as log:
        await filled(log)
        generation = await log.open_generation("workers", "events")
        await log.commit("workers", "events", {0: 5}, generation=generation)
        async with asyncio.timeout(SHOWN_S):
            await coordinator.arrived.wait()
        started = time.monotonic()
        await log.close()
        assert time.monotonic() - started < 5
        assert mirrors() == []
