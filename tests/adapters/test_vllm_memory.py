"""What the log remembers of sources: enough to go on after a kill, whatever became of the checkpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgpack
import pytest

from dynlog.adapters.source_memory import COMPACT_ABOVE, SourceMemory
from dynlog.adapters.vllm_events import decode_batch
from dynlog.adapters.vllm_lineage import Known, digest_of
from dynlog.adapters.vllm_records import Rank, batch_records, clear_record, gone_record
from dynlog.errors import MalformedRecord
from dynlog.kvevents import Kind, unpack_hashes
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from tests.adapters.fake_engine import FakeEngine, removed, stored
from tests.adapters.harness import TOPIC, Watcher, everything, free_ports, holds, ingesting, kinds, source_at

RANK = Rank(7, 0)
SIDE = f"{TOPIC}.sources"


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC)
        yield opened


def batch(sequence: int, *events: object) -> tuple[Known, list[Record]]:
    payload = msgpack.packb([float(sequence), list(events), 0])
    known = Known("ab" * 8, sequence, digest_of(payload))
    decoded = decode_batch(payload, worker_id=7, first_event_id=sequence)
    assert decoded.refused == []
    return known, batch_records(RANK, known, decoded.events, 0)


async def test_records_behind_the_last_checkpoint_are_read_back(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    assert (await memory.recall(RANK)).known is None
    for sequence in (0, 1, 2):
        known, records = batch(sequence, removed(sequence))
        await log.append(TOPIC, 0, records)
    remembered = await (await SourceMemory.open(log, TOPIC)).recall(RANK)
    assert (remembered.known, remembered.next_event_id) == (known, 3)


async def test_an_ended_lineage_is_remembered_as_ended(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    await memory.recall(RANK)
    known, records = batch(0, removed(1))
    await log.append(TOPIC, 0, [*records, clear_record(RANK, known, 1)])
    remembered = await (await SourceMemory.open(log, TOPIC)).recall(RANK)
    assert (remembered.known, remembered.next_event_id, remembered.ended) == (None, 2, known.name)
    assert (await (await SourceMemory.open(log, TOPIC)).recall(RANK)).ended == known.name  # from the checkpoint


async def test_a_removal_that_was_stored_behind_the_last_checkpoint_is_not_said_again(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    await memory.recall(RANK, "sources.yaml")
    await log.append(TOPIC, 0, [gone_record(RANK, None, 0, whole_worker=True)])
    memory = await SourceMemory.open(log, TOPIC)
    assert memory.owned_by("sources.yaml") == [RANK]
    await memory.recall_all([], "sources.yaml")
    assert memory.owned_by("sources.yaml") == []


async def test_a_checkpoint_outlives_the_record_that_truncation_took(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    await memory.recall(RANK)
    known, records = batch(5, removed(1))
    done = await log.append(TOPIC, 0, records)
    memory.sent(RANK)
    memory.stored(RANK, known, 6, 0, done.offsets[0])
    await memory.save()
    await log.truncate(TOPIC, 0, done.end_offset)
    assert (await (await SourceMemory.open(log, TOPIC)).recall(RANK)).known == known


async def test_checkpoints_of_another_topic_of_the_same_name_are_not_believed(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    await memory.recall(RANK)
    memory.sent(RANK)
    memory.stored(RANK, batch(5)[0], 6, 0, 100)
    await memory.save()
    await log.delete_topic(TOPIC)
    await log.create_topic(TOPIC)
    assert (await (await SourceMemory.open(log, TOPIC)).recall(RANK)).known is None


async def test_losing_the_side_topic_loses_nothing_that_the_topic_itself_says(log: Log) -> None:
    await (await SourceMemory.open(log, TOPIC)).recall(RANK)
    known, records = batch(0, removed(1))
    await log.append(TOPIC, 0, records)
    await log.delete_topic(SIDE)
    assert (await (await SourceMemory.open(log, TOPIC)).recall(RANK)).known == known


async def test_the_side_topic_does_not_grow_without_end(log: Log) -> None:
    memory = await SourceMemory.open(log, TOPIC)
    await memory.recall(RANK)
    for offset in range(COMPACT_ABOVE + 10):
        memory.sent(RANK)
        memory.stored(RANK, batch(offset)[0], offset, 0, offset)
        await memory.save()
    _, records = batch(0)
    await log.append(TOPIC, 0, records * (COMPACT_ABOVE + 10))
    await SourceMemory.open(log, TOPIC)
    (state,) = await log.partitions(SIDE)
    assert state.end - state.earliest == 1


async def test_a_side_topic_with_foreign_records_is_refused_by_name(log: Log) -> None:
    await log.create_topic(SIDE)
    await log.append(SIDE, 0, [Record((b"{}",))])
    with pytest.raises(MalformedRecord, match="no checkpoint of a source"):
        await SourceMemory.open(log, TOPIC)


async def test_a_batch_too_large_for_one_record_of_which_only_a_part_was_stored_is_completed(log: Log) -> None:
    port, replay = free_ports()
    blocks = list(range(1, 40_001))
    async with FakeEngine(port, replay) as engine:
        engine.publish(stored(*blocks, block_size=1, parent=99_999))
        async with open_log("memory://") as whole_log:
            await whole_log.create_topic(TOPIC)
            async with ingesting(whole_log, [source_at(port, replay)]):
                await Watcher(whole_log).until(holds(*blocks))
            whole = [one.record for one in await whole_log.read(await whole_log.position(TOPIC, 0), max_bytes=1 << 24)]
        assert len(whole) > 2
        await SourceMemory.open(log, TOPIC)
        await log.append(TOPIC, 0, whole[:1])  # as if the ingest had been killed behind its first part
        async with ingesting(log, [source_at(port, replay)]):
            events = await Watcher(log).until(holds(*blocks))
    assert kinds(events) == [Kind.STORED] * len(events)
    assert [block for event in events for block in unpack_hashes(event.block_hashes)] == blocks
    assert events[1].parent_hash == unpack_hashes(events[0].block_hashes)[-1]
    assert await everything(log) == events
