"""``kafka://``: the log contract on Kafka 3.1 or newer (KRaft or not), for any number of processes.

    kafka://[user:password@]host[:port][,host[:port]...]/[prefix][?option=value&...]

The prefix is this log's own: its topics are ``<prefix>.<name>`` in Kafka, its own topic is ``__dynlog.<prefix>``.
Options: ``replication`` of topics that it makes (default: the broker's), ``max_batch_bytes`` (at most the broker's),
``compression`` (none, gzip, snappy, lz4, zstd), ``tls=true`` with ``tls_ca``, ``tls_cert``, ``tls_key`` (files),
``sasl`` (plain, scram-sha-256, scram-sha-512).  The environment's DYNLOG_KAFKA_USER and DYNLOG_KAFKA_PASSWORD do for
user and password.

How a record is a message: `dynlog.storage.kafka.messages`.  An append with ``expect=`` is decided by log order: its
messages say which offset they expect; one that got another is void, no record for any reader of dynlog's, and the
broker's answer tells the appender.  One with ``incarnation=`` goes by topic id, which Kafka takes since 4.1; older
brokers are asked just before it, and truncation's last step is by name on all of them.  Marks are not checked by the
broker: the reader's dedupe table decides, by log order.  Log time is the broker's.  A log is created by the first who
opens it, and nothing else creates a topic by accident.

Consumer groups are dynlog's own: what they committed is in the log's own topic, and only there it counts.  For whoever
watches lag with Kafka's tools it is copied, soon after and as far as Kafka lets us, into the offsets of Kafka's group
``<prefix>.<group>`` (``dynlog.<group>`` without a prefix): `dynlog.storage.kafka.mirror`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from dynlog.batch import Batch, Position
from dynlog.errors import Closed, ConfigurationError, LogError
from dynlog.log import DEFAULT_READ_BYTES, DEFAULT_TIMEOUT_S, Log, Where
from dynlog.record import Record
from dynlog.storage.kafka import admin
from dynlog.storage.kafka.appends import Appends
from dynlog.storage.kafka.care import Care
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.lanes import Lanes
from dynlog.storage.kafka.meta import Meta
from dynlog.storage.kafka.mirror import Mirror
from dynlog.storage.kafka.opening import open_parts
from dynlog.storage.kafka.options import settings_of
from dynlog.storage.kafka.reads import PATIENCE_S, Reads
from dynlog.storage.kafka.topics import Topics
from dynlog.storage.kafka.watch import Watch
from dynlog.storage.ledger import check_partition, check_partition_count
from dynlog.timing import Clock, Deadline
from dynlog.topics import (
    Appended,
    Capabilities,
    Damage,
    GroupState,
    Holder,
    HolderState,
    LogEvent,
    PartitionState,
    Retention,
    Topic,
    Truncation,
    check_name,
)
from dynlog.url import Url, copy_command
from dynlog.waits import Waits

_SPARE_S = 0.2
"""Inner deadlines say more than the outer one, so they come first."""


async def open_url(url: Url, clock: Clock) -> Log:
    """Opens or creates the log; see `dynlog.open.open_log`."""
    settings = settings_of(url)
    cluster = Cluster(settings)
    try:
        parts = await open_parts(cluster, settings)
    except BaseException:
        await cluster.close()
        raise
    return KafkaLog(url, settings.prefix, settings.replication, clock, cluster, parts.lanes, parts.meta,
                    parts.capabilities)  # fmt: skip


class KafkaLog(Log):
    """One handle on a log in Kafka; every promise is in `dynlog.log.Log`."""

    def __init__(
        self,
        url: Url,
        prefix: str,
        replication: int,
        clock: Clock,
        cluster: Cluster,
        lanes: Lanes,
        meta: Meta,
        capabilities: Capabilities,
    ) -> None:
        self._url = url
        self._clock = clock
        self._cluster = cluster
        self._lanes = lanes
        self._meta = meta
        self._capabilities = capabilities
        self._topics = Topics(cluster, lanes, meta, prefix, replication)
        self._watch = Watch(cluster)
        self._reads = Reads(cluster, self._topics, self._watch)
        self._care = Care(cluster, self._topics, meta, self._reads, Mirror(cluster, prefix), clock)
        self._appends = Appends(self._topics, lanes, self._reads, self._care, capabilities.max_batch_bytes)
        self._waits = Waits(f"the log {url}")
        self._closing: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return str(self._url)

    @property
    def identity(self) -> str:
        return self._meta.identity

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._lanes.close()
        await self._waits.close()
        await self._care.close()
        await self._watch.close()
        await self._cluster.close()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise Closed(f"the log {self._url} was closed")

    @contextmanager
    def _use(self, topic: str | None = None) -> Iterator[None]:
        """A call: counted, refused once `close` was called, its errors naming the topic as the caller does."""
        self._check_open()
        with self._waits.operation():
            try:
                yield
            except LogError as error:
                error.topic = error.topic and (topic or error.topic)
                raise

    @asynccontextmanager
    async def _call(self, timeout: float, doing: str, topic: str | None = None) -> AsyncIterator[Deadline]:
        """A call with a deadline."""
        with self._use(topic):
            async with self._waits.limit(timeout + _SPARE_S, doing):
                yield Deadline(timeout)

    # Topics

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: Retention | None = None,
        labels: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Topic:
        check_name("topic", name)
        check_partition_count(partitions)
        async with self._call(timeout, "a topic to be created", name) as deadline:
            return await self._topics.create(
                name, partitions, retention or Retention(), labels or {}, exist_ok, self._clock.time_ms(), deadline
            )

    async def topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Topic:
        async with self._call(timeout, "a topic", name) as deadline:
            return (await self._topics.find(name, deadline)).info

    async def topics(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Topic]:
        async with self._call(timeout, "the topics") as deadline:
            return [found.info for found in await self._topics.all(deadline)]

    async def delete_topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        async with self._call(timeout, "a topic to be deleted", name) as deadline:
            await self._topics.delete(name, deadline)

    async def label_topic(self, name: str, label: str, value: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        async with self._call(timeout, "a label", name) as deadline:
            found = await self._topics.owned(name, deadline)
            given: str = await self._meta.change(deadline, "label", name, found.info.incarnation, label, value)
            return given

    # Records

    async def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        expect: int | None = None,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        with self._use(topic):
            return await self._appends.append(topic, partition, records, expect, Deadline(timeout), incarnation)

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        async with self._call(wait + PATIENCE_S, "a read", position.topic):
            return await self._reads.read(position, max_records, max_bytes, wait)

    async def position(self, topic: str, partition: int, where: Where = "earliest") -> Position:
        async with self._call(DEFAULT_TIMEOUT_S, "a position", topic) as deadline:
            found = await self._topics.find(topic, deadline)
            check_partition(topic, found.info.partitions, partition)
            if isinstance(where, str):
                start, end = (await admin.bounds(self._cluster, found.kafka, [partition], deadline))[partition]
                where = start if where == "earliest" else end
            return Position(topic, found.info.incarnation, partition, where)

    async def partitions(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[PartitionState]:
        async with self._call(timeout, "the partitions", topic) as deadline:
            return await self._care.partitions(await self._topics.find(topic, deadline), deadline)

    async def offset_at(
        self, topic: str, partition: int, log_time_ms: int, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        async with self._call(timeout, "an offset", topic) as deadline:
            found = await self._topics.find(topic, deadline)
            check_partition(topic, found.info.partitions, partition)
            at = await admin.offsets(self._cluster, found.kafka, {partition: max(log_time_ms, 0)}, deadline)
            start, end = (await admin.bounds(self._cluster, found.kafka, [partition], deadline))[partition]
            if at[partition] < 0:
                return end
            # Kafka names the first message; a void one, or an aborted one, is no record.
            return await self._reads.first_record(found, partition, max(at[partition], start), deadline)

    async def register_producer(
        self, producer_id: str, *, after: int | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        check_name("producer", producer_id)
        async with self._call(timeout, "an epoch") as deadline:
            epoch: int = await self._meta.change(deadline, "epoch", producer_id, after)
            return epoch

    # Holders and truncation

    async def hold(
        self, topic: str, holder: Holder, *, incarnation: str | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        async with self._call(timeout, "a holder", topic) as deadline:
            await self._care.hold(topic, holder, deadline, incarnation)

    async def release(self, topic: str, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        async with self._call(timeout, "a holder's release", topic) as deadline:
            await self._care.release(topic, name, deadline)

    async def holders(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[HolderState]:
        async with self._call(timeout, "the holders", topic) as deadline:
            return await self._care.holders(topic, deadline)

    async def truncate(
        self,
        topic: str,
        partition: int,
        before: int,
        *,
        force: bool = False,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Truncation:
        async with self._call(timeout, "a truncation", topic) as deadline:
            return await self._care.truncate(topic, partition, before, force, deadline, incarnation)

    async def enforce_retention(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Truncation]:
        async with self._call(timeout, "retention", topic) as deadline:
            return await self._care.enforce_retention(topic, deadline)

    async def events(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[LogEvent]:
        async with self._call(timeout, "the events", topic) as deadline:
            return await self._care.events(topic, deadline)

    # Consumer groups

    async def open_generation(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        async with self._call(timeout, "a generation", topic) as deadline:
            return await self._care.open_generation(group, topic, positions, deadline)

    async def commit(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int],
        *,
        generation: int,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> GroupState:
        async with self._call(timeout, "a commit", topic) as deadline:
            return await self._care.commit(group, topic, positions, generation, deadline)

    async def committed(self, group: str, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> GroupState:
        async with self._call(timeout, "what was committed", topic) as deadline:
            return await self._care.committed(group, topic, deadline)

    # Care

    async def verify(self, topic: str | None = None) -> AsyncIterator[Damage]:
        async with self._call(DEFAULT_TIMEOUT_S, "the topics", topic) as deadline:
            found = await self._topics.all(deadline) if topic is None else [await self._topics.find(topic, deadline)]
        for each in found:
            async for damage in self._reads.verify(each, DEFAULT_TIMEOUT_S):
                yield damage
                self._check_open()
            self._check_open()

    async def quarantine(self, *, accept_loss: bool = False) -> list[Damage]:
        damages = [damage async for damage in self.verify()]
        if damages:
            raise ConfigurationError(
                f"{self._url} has {len(damages)} damaged places, the first in topic {damages[0].topic}: Kafka's data "
                "is Kafka's to mend; move the partition to a sound replica (kafka-reassign-partitions.sh), or give up "
                "what lies below with kafka-delete-records.sh"
            )
        return []

    async def backup(self, path: Path) -> None:
        self._check_open()
        raise ConfigurationError(
            f"{self._url} cannot be written to {path} as it is: '{copy_command(self.url, path)}' makes a log of its "
            "own there, MirrorMaker 2 (connect-mirror-maker.sh) one in another cluster"
        )
