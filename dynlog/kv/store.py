"""`open_kv` opens the key-value buckets of a log.

async with dynlog.open_log(url) as log, open_kv(log) as kv:
    await kv.create("settings", BucketSettings(history=5))
    bucket = await kv.bucket("settings")
    revision = await bucket.put("model", b"llama")
    await bucket.update("model", b"qwen", revision)
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from dynlog.delivery import DeliveryPolicy
from dynlog.errors import (
    BucketExists,
    BucketNotFound,
    Closed,
    DeadlineExceeded,
    DynlogError,
    TopicExists,
    TopicNotFound,
    UnsupportedLogVersion,
)
from dynlog.kv.bucket import Bucket
from dynlog.kv.compaction import CompactionPolicy
from dynlog.kv.follower import Follower
from dynlog.kv.latest import Latest
from dynlog.kv.lease_observer import LeaseObserver
from dynlog.kv.observer import Observer
from dynlog.kv.opening import Progress
from dynlog.kv.settings import BucketSettings, bucket_of, is_bucket, labels_of, settings_of, topic_of, value_limit
from dynlog.kv.writer import Writer
from dynlog.log import DEFAULT_TIMEOUT_S, Log
from dynlog.manifests import SUFFIX
from dynlog.objects import ObjectStore
from dynlog.snapshot_writer import SnapshotWriter
from dynlog.snapshots import SnapshotPolicy, Snapshots
from dynlog.tasks import ended
from dynlog.timing import SYSTEM_CLOCK, Clock, Deadline
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
PROJECTION = "kv"
OPEN_S = 600.0
CLOSE_S = 10.0
TIDY_S = 600.0
AGAIN_S = 1.0
WHEN_DIRTY = CompactionPolicy()


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """A bucket as the log has it, without opening it."""

    name: str
    settings: BucketSettings
    created_ms: int
    records: int
    bytes: int


class _Open:
    """An open bucket and all that is behind it."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.writer: Writer | None = None
        self.latest: Latest | None = None
        self.bucket: Bucket | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def close(self, timeout: float) -> None:
        """Ends all of it, in any case: whoever is cancelled meanwhile is when that is done."""
        async with AsyncExitStack() as rest:  # from the last to the first, whatever becomes of the others
            rest.push_async_callback(self.follower.end)
            if self.writer is not None:
                self.writer.closed = True
                rest.push_async_callback(self.writer.close, timeout)
            if self.latest is not None:
                rest.push_async_callback(self.latest.close)
            for task in self.tasks:
                task.cancel()
            await ended(asyncio.gather(*self.tasks, return_exceptions=True))


class KeyValue:
    """The buckets of one log; an async context manager whose exit closes those that are open."""

    def __init__(
        self,
        log: Log,
        *,
        objects: ObjectStore | None,
        snapshots: SnapshotPolicy,
        compaction: CompactionPolicy | None,
        delivery: DeliveryPolicy,
        clock: Clock,
    ) -> None:
        self._log, self._objects, self._clock = log, objects, clock
        self._snapshots, self._compaction, self._delivery = snapshots, compaction, delivery
        self._open: dict[str, _Open] = {}
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._closed = False

    async def create(
        self,
        name: str,
        settings: BucketSettings | None = None,
        *,
        exist_ok: bool = False,
        timeout: float = OPEN_S,
    ) -> Bucket:
        """Creates a bucket and opens it; of several that create it at once exactly one succeeds.

        Raises BucketExists, unless ``exist_ok`` and the settings are the same; ConfigurationError for an illegal name
        or settings that the log cannot keep.
        """
        settings, deadline = settings or BucketSettings(), Deadline(timeout)
        value_limit(settings, self._log.capabilities.max_batch_bytes)
        try:
            topic = await self._log.create_topic(
                topic_of(name), labels=labels_of(settings), exist_ok=exist_ok, timeout=min(timeout, DEFAULT_TIMEOUT_S)
            )
        except TopicExists:
            raise BucketExists("there is such a bucket already (exist_ok=True opens it)", bucket=name) from None
        found = settings_of(topic)
        if found != settings:
            raise BucketExists(f"there is such a bucket already, with other settings: {found}", bucket=name)
        return await self.bucket(name, timeout=deadline.remaining)

    async def bucket(self, name: str, *, timeout: float = OPEN_S, progress: Progress | None = None) -> Bucket:
        """The bucket, opened: its state is what the log holds at the time of the call.

        Raises BucketNotFound, StateUnrecoverable, DeadlineExceeded, and what reading the log raises.
        """
        deadline = Deadline(timeout)
        try:
            async with asyncio.timeout(timeout), self._opening[name]:
                return await self._bucket(name, deadline, progress)
        except TimeoutError:
            raise DeadlineExceeded(f"bucket {name!r} was not opened within {timeout:g} s") from None

    async def _bucket(self, name: str, deadline: Deadline, progress: Progress | None) -> Bucket:
        if self._closed:
            raise Closed("the key-value store was closed")
        known = self._open.get(name)
        if known is not None and known.bucket is not None:
            if known.follower.failure is None:
                return known.bucket
            del self._open[name]
            await known.close(0.0)
        topic = await self._topic(name, deadline.remaining)
        opened = _Open(
            Follower(
                self._log,
                topic,
                settings_of(topic),
                snapshots=self._snapshots_of(topic.name),
                clock=self._clock,
                progress=progress,
            )
        )
        try:
            await opened.follower.start()
            bucket = await self._begin(opened, settings_of(topic))
            if self._closed:
                raise Closed("the key-value store was closed meanwhile")
        except BaseException:
            await opened.close(0.0)
            raise
        self._open[name] = opened
        return bucket

    async def _begin(self, opened: _Open, settings: BucketSettings) -> Bucket:
        follower = opened.follower
        opened.writer = writer = Writer(self._log, follower, self._delivery)
        opened.latest = latest = Latest(self._log, follower, writer, self._delivery)
        snapshots = self._snapshots_of(follower.topic.name)
        snapshot_writer: SnapshotWriter | None = None
        if snapshots is not None:
            snapshot_writer = SnapshotWriter(snapshots, self._snapshots, follower.picture, self._clock)
            follower.noted = snapshot_writer.note
            opened.tasks.append(asyncio.create_task(_kept_up(snapshot_writer.run)))
        opened.bucket = bucket = Bucket(self._log, follower, writer, latest, settings, snapshot_writer)
        observer = Observer(follower, writer, self._clock)
        await observer.catch_up()
        opened.tasks.append(asyncio.create_task(_kept_up(observer.run)))
        lease_observer = LeaseObserver(self._log, follower, writer, self._clock)
        opened.tasks.append(asyncio.create_task(_kept_up(lease_observer.run)))
        if self._compaction is not None:
            opened.tasks.append(asyncio.create_task(_kept_up(partial(_tidy, bucket, self._compaction))))
        return bucket

    def _snapshots_of(self, topic: str) -> Snapshots | None:
        if self._objects is None:
            return None
        return Snapshots(self._log, topic, self._objects, PROJECTION, clock=self._clock)

    async def _topic(self, name: str, timeout: float) -> Topic:
        try:
            return await self._log.topic(topic_of(name), timeout=timeout)
        except TopicNotFound:
            raise BucketNotFound(
                f"there is no such bucket: create it (dynlog kv buckets --create {name})", bucket=name
            ) from None

    async def buckets(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[BucketInfo]:
        """All buckets, by name; one of a newer dynlog is left out, with a warning."""
        found: list[BucketInfo] = []
        for topic in await self._log.topics(timeout=timeout):
            if not is_bucket(topic):
                continue
            try:
                settings, state = settings_of(topic), (await self._log.partitions(topic.name, timeout=timeout))[0]
            except TopicNotFound:  # deleted meanwhile
                continue
            except UnsupportedLogVersion as error:
                logger.warning("left out: %s", error)
                continue
            records = state.end - state.earliest
            found.append(BucketInfo(bucket_of(topic), settings, topic.created_ms, records, state.bytes))
        return found

    async def delete(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Deletes the bucket with all its keys, here and for everybody; raises BucketNotFound.

        Whoever has it open, or watches it, gets BucketNotFound.
        """
        deadline = Deadline(timeout)
        topic = await self._topic(name, deadline.remaining)
        snapshots = self._snapshots_of(topic.name)
        try:
            async with asyncio.timeout(deadline.remaining):
                bodies = [state.manifest.key for state in await snapshots.known()] if snapshots is not None else []
        except TimeoutError:
            raise DeadlineExceeded(f"bucket {name!r}: its snapshots were not read in {timeout:g} s") from None
        try:
            await self._log.delete_topic(topic.name, timeout=deadline.remaining)
        except TopicNotFound:
            raise BucketNotFound("it was deleted in the same instant", bucket=name) from None
        if (known := self._open.pop(name, None)) is not None:
            known.follower.fail(BucketNotFound("it was deleted while it was in use", bucket=name))
            await known.close(0.0)
        with suppress(TopicNotFound):
            await self._log.delete_topic(topic.name + SUFFIX, timeout=deadline.remaining)
        try:
            async with asyncio.timeout(deadline.remaining):
                for key in bodies if self._objects is not None else ():
                    assert self._objects is not None
                    await self._objects.delete(key)
        except TimeoutError:
            raise DeadlineExceeded(
                f"bucket {name!r} is deleted, but some of its snapshots' bodies still lie in the object store"
            ) from None

    async def close(self) -> None:
        """Completes what is being written, ends what is behind the buckets; closing twice is harmless."""
        self._closed = True
        opened, self._open = list(self._open.values()), {}
        await asyncio.gather(*(each.close(CLOSE_S) for each in opened), return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _kept_up(run: Callable[[], Awaitable[None]]) -> None:
    """Runs it, and anew if it fails: a defect must not end in silence what expires leases, values and old records."""
    while True:
        try:
            return await run()
        except Exception:
            logger.exception("a task behind a bucket failed and begins anew")
            await asyncio.sleep(AGAIN_S)


async def _tidy(bucket: Bucket, policy: CompactionPolicy) -> None:
    """Compacts the bucket whenever it is worth it, until it is cancelled."""
    while bucket.follower.failure is None:
        await asyncio.sleep(policy.every_s)
        try:
            done = await bucket.compactor.tidy(policy, TIDY_S)
            if done is not None:
                logger.info("bucket %s: %s", bucket.name, done)
        except DynlogError as error:
            logger.warning("bucket %s: not compacted: %s", bucket.name, error)


def open_kv(
    log: Log,
    objects: ObjectStore | None = None,
    *,
    snapshots: SnapshotPolicy | None = None,
    compaction: CompactionPolicy | None = WHEN_DIRTY,
    delivery: DeliveryPolicy | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> KeyValue:
    """The key-value buckets of the log; use it as ``async with``.

    With ``objects`` snapshots are written there, so that large buckets open fast.  ``compaction=None`` leaves
    compacting to others.
    """
    return KeyValue(
        log,
        objects=objects,
        snapshots=snapshots or SnapshotPolicy(),
        compaction=compaction,
        delivery=delivery or DeliveryPolicy(),
        clock=clock,
    )
