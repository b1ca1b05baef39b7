"""What the log itself remembers of vLLM sources: a killed ingest finds, in the log, how far it had come.

The truth is the marks and digests of the stored records; the side topic ``<topic>.sources`` only says where in the
topic to begin looking, and keeps the last digest although truncation took the record.  A checkpoint may be old by any
time: whatever was stored after it lies behind its offset and is read back.  Losing the side topic costs one reading of
the whole topic.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from dynlog.adapters.vllm_lineage import Known
from dynlog.adapters.vllm_records import DIGEST_HEADER, NO_LINEAGE, Rank, trace_of
from dynlog.batch import Batch, Position
from dynlog.codec import MarkRun
from dynlog.errors import DeadlineExceeded, MalformedRecord, OffsetTruncated
from dynlog.kvevents import HEAD, worker_key
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Record
from dynlog.topics import Topic

COMPACT_ABOVE = 1024
"""Checkpoints in the side topic above which opening rewrites it."""
SETTLE_S = 60.0
ADVANCE_RECORDS = 20_000
"""An idle source's checkpoint moves on once the partition grew by so much, so that finding it again stays quick."""


class Remembered(NamedTuple):
    """One source: its lineage (None if it ended or never began), the next event id, and where it was seen last.

    ``owner`` is the sources file that named it, so that an entry that went away while no ingest ran is noticed;
    ``ended`` is the `Known.name` of the last lineage that ended.
    """

    rank: Rank
    known: Known | None
    next_event_id: int
    partition: int
    offset: int
    owner: str = ""
    ended: str = ""


class SourceMemory:
    """Opened for one topic; `stored` takes note of what is durable and `save` writes checkpoints."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self._log = log
        self._topic = topic
        self._side = f"{topic.name}.sources"
        self._entries: dict[Rank, Remembered] = {}
        self._saved: dict[Rank, Remembered] = {}
        self._under_way: dict[Rank, int] = {}
        self._ends: dict[int, int] = {}
        self._read: set[Rank] = set()
        self._acknowledged = asyncio.Event()

    @classmethod
    async def open(cls, log: Log, topic: str) -> SourceMemory:
        """Reads the checkpoints; raises TopicNotFound and what the log raises."""
        memory = cls(log, await log.topic(topic))
        await log.create_topic(memory._side, exist_ok=True)
        await memory._load()
        return memory

    def owned_by(self, owner: str) -> list[Rank]:
        """The sources that were named by that file and did not go away since."""
        return [rank for rank, entry in self._entries.items() if owner and entry.owner == owner]

    async def recall(self, rank: Rank, owner: str = "") -> Remembered:
        """How far the source was stored, once nothing of it is under way.

        A source that was never seen gets its first checkpoint here, before any record of it, so that nothing of it can
        lie outside what is read back; without any checkpoint the whole topic is read.  Raises DeadlineExceeded if what
        is under way is not acknowledged.
        """
        await self.recall_all([rank], owner)
        return await self.settled(rank)

    async def recall_all(self, ranks: Iterable[Rank], owner: str = "") -> None:
        """Reads back many sources at once, also those that the owner named before; each partition is read once."""
        listed = list(ranks)
        wanted = {*listed, *self.owned_by(owner)} - self._read
        if wanted:
            states = await self._log.partitions(self._topic.name)
            for rank in wanted - self._entries.keys():
                partition = partition_of(worker_key(rank.worker_id), self._topic.partitions)
                begin = states[partition].end if self._saved else states[partition].earliest
                self._entries[rank] = Remembered(rank, None, 0, partition, begin)
            for partition in {self._entries[rank].partition for rank in wanted}:
                await self._scan(partition, {rank for rank in wanted if self._entries[rank].partition == partition})
            self._read |= wanted
        for rank in listed:
            self._entries[rank] = self._entries[rank]._replace(owner=owner)
        await self.save()

    async def settled(self, rank: Rank) -> Remembered:
        """What is known of a source that was read back, once nothing of it is under way."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while self._under_way.get(rank):
                    self._acknowledged.clear()
                    await self._acknowledged.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"records of worker {rank.worker_id} are not acknowledged in {SETTLE_S} s") from None
        return self._entries[rank]

    def sent(self, rank: Rank) -> None:
        """A batch of the source is on its way; `stored` or `gone` is to follow."""
        self._under_way[rank] = self._under_way.get(rank, 0) + 1

    def stored(self, rank: Rank, known: Known | None, next_event_id: int, partition: int, offset: int) -> None:
        """It is durable; ``known`` is the source's lineage with it."""
        self._under_way[rank] -= 1
        self._acknowledged.set()
        self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)
        entry = self._entries[rank]
        ended = entry.known.name if known is None and entry.known else entry.ended
        self._entries[rank] = entry._replace(
            known=known, next_event_id=next_event_id, offset=max(entry.offset, offset), ended=ended
        )

    def gone(self, rank: Rank, next_event_id: int, partition: int, offset: int) -> None:
        """The end of the source is durable, and nobody names it any more."""
        self.stored(rank, None, next_event_id, partition, offset)
        self._entries[rank] = self._entries[rank]._replace(owner="")

    async def save(self) -> None:
        """Writes the checkpoints that changed; one append."""
        for rank, entry in self._entries.items():
            end = self._ends.get(entry.partition, 0)
            if not self._under_way.get(rank) and end - entry.offset > ADVANCE_RECORDS:
                self._entries[rank] = entry._replace(offset=end)
        changed = {rank: entry for rank, entry in self._entries.items() if self._saved.get(rank) != entry}
        if changed:
            await self._log.append(self._side, 0, [self._encode(entry) for entry in changed.values()])
            self._saved.update(changed)

    async def _load(self) -> None:
        position = await self._log.position(self._side, 0)
        count = 0
        while True:
            batch = await self._log.read(position)
            for body in batch.bodies:
                self._fold(_decode(body, self._topic.incarnation))
            count += len(batch)
            position = batch.next_position
            if batch.next_offset >= batch.end_offset:
                break
        self._saved = dict(self._entries)
        if count > COMPACT_ABOVE + 4 * len(self._entries):
            self._saved = {}
            await self.save()
            await self._log.truncate(self._side, 0, position.offset)

    def _fold(self, entry: Remembered | None) -> None:
        # By offset and not by log order: a compaction may have repeated an entry behind a newer one of another ingest.
        if entry is None:
            return
        before = self._entries.get(entry.rank)
        if before is None or before.offset <= entry.offset:
            self._entries[entry.rank] = entry

    async def _scan(self, partition: int, wanted: set[Rank]) -> None:
        """Reads the partition from the oldest of the checkpoints on."""
        offset = min(self._entries[rank].offset for rank in wanted)
        while True:
            position = Position(self._topic.name, self._topic.incarnation, partition, offset)
            try:
                batch = await self._log.read(position)
            except OffsetTruncated as error:
                offset = error.earliest
                continue
            for run in batch.marks:
                trace = trace_of(run.producer_id)
                if trace is not None and trace.rank in wanted:
                    self._follow(batch, run, trace.rank, trace.incarnation, trace.suffix)
            offset = batch.next_offset
            if offset >= batch.end_offset:
                break
        for rank in wanted:
            self._entries[rank] = self._entries[rank]._replace(offset=max(self._entries[rank].offset, offset))

    def _follow(self, batch: Batch, run: MarkRun, rank: Rank, incarnation: str, suffix: str) -> None:
        entry = self._entries[rank]
        for index in range(run.start, run.start + run.length):
            if batch.offsets[index] < entry.offset:
                continue  # older than what the checkpoint says
            heads = batch.bodies[index][0]
            if len(heads) >= HEAD.size:
                entry = entry._replace(next_event_id=HEAD.unpack_from(heads, len(heads) - HEAD.size)[7] + 1)
            headers = batch.columns.headers[index] if batch.columns.headers else {}
            if suffix in ("-end", "-gone"):
                ended = entry.known.name if entry.known else entry.ended
                if incarnation != NO_LINEAGE:
                    ended = Known(incarnation, run.sequence + index - run.start, b"").name
                entry = entry._replace(known=None, ended=ended, owner="" if suffix == "-gone" else entry.owner)
            elif DIGEST_HEADER in headers:
                last = run.sequence + index - run.start
                entry = entry._replace(known=Known(incarnation, last, headers[DIGEST_HEADER]))
        self._entries[rank] = entry

    def _encode(self, entry: Remembered) -> Record:
        known = entry.known
        body = {
            "worker_id": entry.rank.worker_id, "dp_rank": entry.rank.dp_rank,
            "known": [known.incarnation, known.last, known.digest.hex()] if known else None,
            "next_event_id": entry.next_event_id, "topic": self._topic.incarnation,
            "partition": entry.partition, "offset": entry.offset, "owner": entry.owner, "ended": entry.ended,
        }  # fmt: skip
        return Record((json.dumps(body).encode(),), key=f"vllm:{entry.rank.worker_id}:{entry.rank.dp_rank}".encode())


def _decode(body: Iterable[bytes], incarnation: str) -> Remembered | None:
    """A checkpoint; None for one of an earlier topic of the same name."""
    try:
        value: Any = json.loads(b"".join(body))
        if value["topic"] != incarnation:
            return None
        known = value["known"]
        return Remembered(
            Rank(value["worker_id"], value["dp_rank"]),
            Known(known[0], known[1], bytes.fromhex(known[2])) if known else None,
            value["next_event_id"], value["partition"], value["offset"], value["owner"], value.get("ended", ""),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise MalformedRecord(f"a record of the side topic is no checkpoint of a source: {error}") from None
