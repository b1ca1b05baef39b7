"""Reading on from a position: what is there, or a wait at the end; an error for every position that cannot be."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from dynlog.batch import Batch, Position
from dynlog.errors import (
    DynlogError,
    LogCorrupt,
    LogDiverged,
    LogUnavailable,
    MalformedRecord,
    OffsetTruncated,
    TopicNotFound,
)
from dynlog.storage.kafka import admin
from dynlog.storage.kafka.cluster import BACKOFF, Cluster
from dynlog.storage.kafka.failures import GONE, OFFSET_OUT_OF_RANGE, TRANSIENT, name_of, refused
from dynlog.storage.kafka.fetches import Decoded, Fetched, Spot, decode, fetch
from dynlog.storage.kafka.sizes import Sizes
from dynlog.storage.kafka.topics import Found, Topics
from dynlog.storage.kafka.watch import Watch
from dynlog.storage.ledger import beyond_end, check_partition, gone, other_incarnation, truncated
from dynlog.timing import Deadline
from dynlog.topics import Damage

PATIENCE_S = 15.0
"""How long a read looks for a leader that answers, from when none did on: who follows must hear of an outage."""
_VERIFY_BYTES = 1 << 20
_PROBE_BYTES = 64 << 10


class Reads:
    """The reads of one log handle, and what they saw of sizes."""

    def __init__(self, cluster: Cluster, topics: Topics, watch: Watch) -> None:
        self._cluster = cluster
        self._topics = topics
        self._watch = watch
        self.sizes: defaultdict[tuple[bytes, int], Sizes] = defaultdict(Sizes)

    async def read(self, position: Position, max_records: int | None, max_bytes: int, wait: float) -> Batch:
        """See `Log.read`."""
        until = Deadline(wait)
        found = await self._found(position, Deadline(PATIENCE_S))
        spot = Spot(found.kafka, found.id, position.partition, position.offset)
        waited = False
        while True:
            fetched = await self._fetch(position, spot, max_bytes, Deadline(PATIENCE_S), waited)
            decoded = self._decode(spot, fetched, max_records)
            ended = decoded.next >= fetched.end
            if decoded.builder.offsets or (ended and (decoded.next > position.offset or until.passed)):
                return Batch(
                    position.topic, position.incarnation, position.partition,
                    decoded.builder.offsets, decoded.builder.log_times, decoded.builder.build(),
                    decoded.next, max(fetched.end, decoded.next),
                )  # fmt: skip
            if ended:
                await self._wait(spot, until)
                waited = True
            else:
                spot = spot._replace(offset=decoded.next)  # nothing but a hole so far

    async def _wait(self, spot: Spot, until: Deadline) -> None:
        node = await self._cluster.leader(spot.name, spot.partition, until)
        if node is None:
            await asyncio.sleep(min(until.remaining, BACKOFF.most))
        else:
            await self._watch.wait(node, spot, until.remaining)

    async def _found(self, position: Position, deadline: Deadline) -> Found:
        """The topic, of the position's incarnation."""
        found = self._topics.cached(position.topic)
        if (
            found is None
            or found.info.incarnation != position.incarnation
            or not 0 <= position.partition < found.info.partitions
        ):
            found = await self._topics.find(position.topic, deadline)
            check_partition(position.topic, found.info.partitions, position.partition)
            if found.info.incarnation != position.incarnation:
                raise other_incarnation(*position[:1], position.partition, position.incarnation, found.info.incarnation)
        return found

    async def _fetch(self, position: Position, spot: Spot, max_bytes: int, deadline: Deadline, waited: bool) -> Fetched:
        """What is there, after whatever passes by itself; raises for what does not."""
        for pause in BACKOFF:
            try:
                fetched = await fetch(self._cluster, spot, max_bytes, deadline)
            except LogUnavailable as error:
                last: DynlogError = error
                if not self._cluster.known(spot.name):
                    await self._check_there(position, deadline, waited)
            else:
                if fetched.code == 0:
                    return fetched
                last = refused(fetched.code, "a read", topic=position.topic, partition=position.partition)
                if fetched.code == OFFSET_OUT_OF_RANGE:
                    await self._check_range(position, spot, deadline)
                elif fetched.code in GONE:
                    self._cluster.forget(spot.name)
                    await self._check_there(position, deadline, waited)
                elif fetched.code in TRANSIENT:
                    self._cluster.forget(spot.name)
                    last = LogUnavailable(f"the broker answers {name_of(fetched.code)}", topic=position.topic)
                else:
                    raise last
            if deadline.remaining <= pause:
                raise last
            await asyncio.sleep(pause)
        raise AssertionError("a backoff never ends")

    async def _check_there(self, position: Position, deadline: Deadline, waited: bool) -> None:
        try:
            found = await self._topics.find(position.topic, deadline)
        except TopicNotFound:
            if waited:
                raise gone(position.topic, position.partition, position.incarnation) from None
            raise
        if found.info.incarnation != position.incarnation:
            raise other_incarnation(position.topic, position.partition, position.incarnation, found.info.incarnation)

    async def _check_range(self, position: Position, spot: Spot, deadline: Deadline) -> None:
        await self._check_there(position, deadline, waited=True)
        start, end = (await admin.bounds(self._cluster, spot.name, [spot.partition], deadline))[spot.partition]
        if spot.offset < start:
            raise truncated(position.topic, position.partition, spot.offset, start)
        if spot.offset > end:
            raise beyond_end(position.topic, position.partition, spot.offset, end)

    def _decode(self, spot: Spot, fetched: Fetched, max_records: int | None) -> Decoded:
        decoded = decode(spot, fetched, max_records)
        sizes = self.sizes[spot.topic_id, spot.partition]
        for run in decoded.runs:
            sizes.add(run)
        return decoded

    async def first_record(self, found: Found, partition: int, offset: int, deadline: Deadline) -> int:
        """The offset of the first record at or after that one; the end if there is none."""
        position = Position(found.info.name, found.info.incarnation, partition, offset)
        while True:
            spot = Spot(found.kafka, found.id, partition, position.offset)
            fetched = await self._fetch(position, spot, _PROBE_BYTES, deadline, waited=False)
            try:
                decoded = self._decode(spot, fetched, 1)
            except MalformedRecord:
                return position.offset  # whoever reads on is told
            if decoded.builder.offsets:
                return decoded.builder.offsets[0]
            if decoded.next >= fetched.end:
                return max(decoded.next, fetched.end)
            position = position._replace(offset=decoded.next)

    async def probe(self, found: Found, partition: int, offset: int, deadline: Deadline) -> None:
        """Looks at the batches around an offset, for their sizes and log times."""
        spot = Spot(found.kafka, found.id, partition, offset)
        fetched = await fetch(self._cluster, spot, _PROBE_BYTES, deadline)
        if fetched.code == 0:
            self._decode(spot, fetched, None)

    async def verify(self, found: Found, deadline_s: float) -> AsyncIterator[Damage]:
        """Reads the topic to the ends that it has now."""
        numbers = range(found.info.partitions)
        try:
            bounds = await admin.bounds(self._cluster, found.kafka, numbers, Deadline(deadline_s))
        except TopicNotFound:
            return
        for number in numbers:
            at, end = bounds[number]
            while at < end:
                spot = Spot(found.kafka, found.id, number, at)
                position = Position(found.info.name, found.info.incarnation, number, at)
                try:
                    fetched = await self._fetch(position, spot, _VERIFY_BYTES, Deadline(deadline_s), waited=False)
                    at = max(decode(spot, fetched, None).next, at)
                    if not fetched.records:
                        break
                except (LogCorrupt, MalformedRecord) as error:
                    yield Damage(found.info.name, number, at, -1, str(error))
                    break
                except (LogDiverged, TopicNotFound):
                    return  # deleted meanwhile
                except OffsetTruncated as error:
                    at = error.earliest
