"""The append as the client sees it: encode, seal, send, and send again what is new if some of it is known."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from dynlog.codec import MarkRun, encode_with_runs, seal
from dynlog.errors import LogUnavailable, OffsetConflict, OutcomeUnknown, ProducerFenced
from dynlog.marks import UNKNOWN_OFFSET
from dynlog.record import Record
from dynlog.storage.ledger import check_expect, check_newest, check_partition, next_epoch
from dynlog.storage.redis import log_lua
from dynlog.storage.redis.append_lua import APPEND
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.topics import Topics
from dynlog.storage.redis.wire import RUN
from dynlog.timing import Deadline
from dynlog.topics import Appended, Topic, check_name

NUMBERS = struct.Struct(">3d2I")
MARKS = struct.Struct(">2I2Q")
HALF = 1 << 32
NOTHING = -1
"""What an append that expects no offset says."""
MOST_OFFSET = 1 << 53
"""Numbers in scripts are exact up to here; no end is so high."""
REMEMBERED = 4096
"""How many ends, and how many producers' epochs, a handle remembers."""
MOST_WAIT_MS = 10_000


def place(topic: Topic, partition: int) -> bytes:
    """The context under which an append is sealed: a frame read from elsewhere does not verify."""
    return f"{topic.incarnation}/{partition}".encode()


class Appends:
    """The appends of a handle.  It remembers the highest end that it was told of: a lower one proves a lost tail."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._topics = topics
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._noted: OrderedDict[tuple[str, int, str], None] = OrderedDict()

    async def append(
        self,
        name: str,
        partition: int,
        records: Sequence[Record],
        expect: int | None,
        deadline: Deadline,
        incarnation: str | None = None,
    ) -> Appended:
        """Stores the append, whole or not at all; see `dynlog.log.Log.append`."""
        check_expect(expect)
        topic = await self._topics.known(name, deadline, incarnation)
        check_partition(name, topic.partitions, partition)
        topic, reply = await self._send(topic, partition, records, expect, deadline, incarnation)
        if isinstance(reply, bytes):  # all of it is new, as nearly always
            base, log_time_ms = map(int, reply.split())
            end = base + len(records)
            self.saw(self._topics.partition(topic, partition).meta, end)
            return Appended(partition, tuple(range(base, end)), end, log_time_ms)
        offsets: list[int] = [UNKNOWN_OFFSET] * len(records)
        indices: Sequence[int] = range(len(records))
        twins: list[tuple[int, int]] = []
        while True:
            if isinstance(reply, bytes):
                base, log_time_ms = map(int, reply.split())
                stored, end = len(indices), base + len(indices)
                for i, index in enumerate(indices):
                    offsets[index] = base + i
                break
            kind, base, log_time_ms, pieces = reply
            if kind == b"REPEAT":
                stored, end = 0, base
                for i, index in enumerate(indices):
                    offsets[index] = pieces[2 * i + 1]
                break
            indices = _new_part(indices, base, pieces, offsets, twins)
            new = [records[i] for i in indices]
            topic, reply = await self._send(topic, partition, new, expect, deadline, incarnation)
        for index, first in reversed(twins):
            offsets[index] = offsets[first]
        self.saw(self._topics.partition(topic, partition).meta, end)
        return Appended(partition, tuple(offsets), end, log_time_ms, len(records) - stored)

    def saw(self, place: str, end: int) -> None:
        """Remembers an end that was acknowledged."""
        self._ends[place] = max(end, self._ends.pop(place, 0))
        if len(self._ends) > REMEMBERED:
            self._ends.popitem(last=False)

    async def _send(
        self,
        topic: Topic,
        partition: int,
        records: Sequence[Record],
        expect: int | None,
        deadline: Deadline,
        incarnation: str | None,
    ) -> tuple[Topic, Any]:
        """One try, in whatever incarnation the topic has, or in the one that is named: its reply, and the topic.

        The keys carry the incarnation, so no try ever meets another one than it was sent for.  What is left: until the
        keys of a deleted one are gone (a moment; a minute if its deleter died) it still takes appends, as a dead end.
        """
        client = self._client
        payload, runs = encode_with_runs(records, max_bytes=client.settings.max_batch_bytes)
        for run in runs:
            if run.epoch and (run.producer_id, run.epoch, client.run) not in self._noted:
                await self._note(run.producer_id, run.epoch, deadline)
        while True:
            keys = self._topics.partition(topic, partition)
            frame = seal(payload, place(topic, partition))
            known = self._ends.get(keys.meta, 0)
            expected = NOTHING if expect is None else min(expect, MOST_OFFSET)
            job = Job(
                keys[:3],
                (
                    RUN,
                    NUMBERS.pack(known, client.script_now, expected, len(records), len(runs)),
                    frame,
                    keys.bell,
                    _packed(runs),
                    *[run.producer_id for run in runs],
                ),
            )
            reply = await client.run_script(
                APPEND,
                job,
                deadline,
                lane=client.appends,
                size=len(frame),
                again=bool(runs) and _all_marked(runs, records),
                writes=True,
            )
            if isinstance(reply, bytes):
                if client.settings.replicas:
                    await self._replicated(deadline)
                return topic, reply
            if reply[0] == b"FENCED":
                run = runs[reply[1] - 1]
                raise ProducerFenced(
                    f"producer {run.producer_id!r} writes in epoch {run.epoch} but epoch {reply[2] * HALF + reply[3]} "
                    "exists: another instance took over; stop this one, or register it anew",
                    topic=topic.name,
                    partition=partition,
                )
            if reply[0] == b"CONFLICT":
                assert expect is not None
                raise OffsetConflict(topic=topic.name, partition=partition, expected=expect, end=reply[1])
            if reply[0] != b"GONE":
                return topic, reply
            found = await self._topics.find(topic.name, deadline, incarnation)
            if found.incarnation == topic.incarnation:
                raise LogUnavailable(
                    "the topic is being deleted, or a key of this partition was deleted by hand",
                    topic=topic.name,
                    partition=partition,
                )
            topic = found
            check_partition(topic.name, topic.partitions, partition)

    async def _replicated(self, deadline: Deadline) -> None:
        client, wanted = self._client, self._client.settings.replicas
        patience = min(int(deadline.remaining * 800), MOST_WAIT_MS)  # so that its answer comes in time
        call = client.appends.submit(("WAIT", wanted, max(patience, 1)))
        confirmed = await client.reply(client.appends, call, deadline)
        if confirmed < wanted:
            raise OutcomeUnknown(
                f"{client.name}: stored, but {confirmed} of {wanted} replicas confirmed it in time: it may be lost in "
                "a failover; repeat it under the same marks"
            )

    # Producers

    async def _note(self, producer: str, epoch: int, deadline: Deadline) -> None:
        """Lets registrations know of an epoch before it is used, in each run of the server: it may have lost them."""
        noted = (producer, epoch, self._client.run)
        while True:
            newest = await self._newest(producer, deadline)
            if (newest or 0) >= epoch or await self._raise(producer, newest, epoch, deadline):
                break
        self._noted[noted] = None
        if len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)

    async def register(self, producer: str, after: int | None, deadline: Deadline) -> int:
        """The next epoch of the producer."""
        check_name("producer", producer)
        while True:
            newest = await self._newest(producer, deadline)
            epoch = next_epoch(newest, ())
            check_newest(producer, epoch, after)
            if await self._raise(producer, newest, epoch, deadline):
                return epoch

    async def _newest(self, producer: str, deadline: Deadline) -> int | None:
        found = await self._client.run_script(
            log_lua.NEWEST, Job((self._client.keys.producers,), (producer,)), deadline
        )
        return None if found is None else int(found)

    async def _raise(self, producer: str, newest: int | None, epoch: int, deadline: Deadline) -> bool:
        expected = "" if newest is None else str(newest)
        job = Job((self._client.keys.producers,), (producer, expected, str(epoch)))
        return bool(await self._client.run_script(log_lua.SWAP, job, deadline))


def _all_marked(runs: Sequence[MarkRun], records: Sequence[Record]) -> bool:
    """Whether the append may be sent twice: every record of it is known again."""
    return sum([run.length for run in runs]) == len(records)


def _packed(runs: Sequence[MarkRun]) -> bytes:
    return b"".join([MARKS.pack(start, length, epoch, sequence) for start, length, _, epoch, sequence in runs])


def _new_part(
    indices: Sequence[int], base: int, pieces: Sequence[int], offsets: list[int], twins: list[tuple[int, int]]
) -> list[int]:
    """The indices of what is new; notes where the repeats lie, and ``twins`` of something new in the same append."""
    kept: list[int] = []
    at = 0
    for many, offset in zip(pieces[::2], pieces[1::2], strict=True):
        if offset == base + len(kept):
            kept += indices[at : at + many]
        elif offset >= base:
            twins.append((indices[at], kept[offset - base]))
        else:
            offsets[indices[at]] = offset
        at += many
    return kept
