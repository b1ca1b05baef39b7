"""What a producer promises: once, in order, or the ticket says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import dynlog
from dynlog import Log, Mark, Producer, Record
from dynlog.delivery import DeliveryPolicy
from dynlog.errors import (
    BatchTooLarge,
    Closed,
    DynlogError,
    LogUnavailable,
    MalformedRecord,
    OutcomeUnknown,
    PartitionNotFound,
    ProducerFenced,
)
from dynlog.timing import Backoff
from tests.faulty import Fault, FaultyLog

QUICK = DeliveryPolicy(timeout_s=0.2, attempt_timeout_s=0.1, backoff=Backoff(first=0.001, most=0.01))


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t", partitions=2)
        yield log


@pytest.fixture
def faulty(log: Log) -> FaultyLog:
    return FaultyLog(log)


async def contents(log: Log, partition: int = 0) -> list[bytes]:
    batch = await log.read(await log.position("t", partition))
    return [b"".join(bytes(p) for p in stored.record.parts) for stored in batch]


def record(text: str, key: bytes | None = None) -> Record:
    return Record(parts=(text.encode(),), key=key)


async def test_records_of_a_partition_keep_the_order_in_which_they_were_submitted(log: Log) -> None:
    async with Producer(log, "t") as producer:
        tickets = [await producer.submit(record(str(i)), partition=0) for i in range(500)]
        stored = [await ticket for ticket in tickets]
    assert [s.offset for s in stored] == list(range(500))
    assert await contents(log) == [str(i).encode() for i in range(500)]


async def test_what_is_submitted_while_an_append_runs_goes_into_the_next_one(faulty: FaultyLog) -> None:
    faulty.gate.clear()
    async with Producer(faulty.log, "t") as producer:
        tickets = [await producer.submit(record(str(i)), partition=0) for i in range(100)]
        faulty.gate.set()
        for ticket in tickets:
            await ticket
    assert sum(faulty.appends) == 100
    assert len(faulty.appends) <= 2


async def test_a_key_always_goes_to_its_partition_and_keyless_records_take_turns(log: Log) -> None:
    async with Producer(log, "t") as producer:
        keyed = {(await producer.send(record("x", b"some key"))).partition for _ in range(5)}
        keyless = [(await producer.send(record("x"))).partition for _ in range(4)]
    assert len(keyed) == 1
    assert keyless == [0, 1, 0, 1]


async def test_submit_waits_while_too_much_is_unacknowledged(faulty: FaultyLog) -> None:
    faulty.gate.clear()
    async with Producer(faulty.log, "t", max_unacknowledged_bytes=1000) as producer:
        await producer.submit(record("a" * 900), partition=0)
        waiting = asyncio.create_task(producer.submit(record("b" * 900), partition=0))
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        faulty.gate.set()
        await (await waiting)


async def test_a_cancelled_submit_has_taken_nothing(faulty: FaultyLog) -> None:
    faulty.gate.clear()
    async with Producer(faulty.log, "t", max_unacknowledged_bytes=1000) as producer:
        await producer.submit(record("a" * 900), partition=0)
        waiting = asyncio.create_task(producer.submit(record("never"), partition=0))
        refused = asyncio.create_task(producer.submit(record("b" * 900), partition=0))
        await asyncio.wait([refused], timeout=0.05)
        refused.cancel()
        faulty.gate.set()
        await waiting
        await producer.flush()
        assert await contents(faulty.log) == [b"a" * 900, b"never"]


@pytest.mark.parametrize("fault", [Fault.STORED_UNSAID, Fault.LOST_UNSAID, Fault.NOT_STORED])
async def test_a_record_whose_append_failed_is_stored_once_in_the_end(faulty: FaultyLog, fault: Fault) -> None:
    faulty.faults.extend([fault, fault])
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        assert (await producer.send(record("x"), partition=0)).offset == 0
        assert (await producer.send(record("y"), partition=0)).offset == 1
    assert await contents(faulty.log) == [b"x", b"y"]


async def test_an_ambiguous_append_goes_on_being_retried_behind_a_cancelled_caller(faulty: FaultyLog) -> None:
    faulty.faults.append(Fault.LOST_UNSAID)
    faulty.gate.clear()
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        caller = asyncio.create_task(producer.send(record("x"), partition=0))
        await asyncio.wait([caller], timeout=0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        faulty.gate.set()
        await producer.send(record("y"), partition=0)
    assert await contents(faulty.log) == [b"x", b"y"]


async def test_nothing_overtakes_an_append_whose_outcome_is_unknown(faulty: FaultyLog) -> None:
    faulty.faults.extend([Fault.LOST_UNSAID] * 3)
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        tickets = [await producer.submit(record(str(i)), partition=0) for i in range(10)]
        for ticket in tickets:
            await ticket
    assert await contents(faulty.log) == [str(i).encode() for i in range(10)]


async def test_a_given_up_append_raises_the_epoch_so_that_its_ghost_is_refused(faulty: FaultyLog) -> None:
    faulty.faults.extend([Fault.GHOST] * 1000)
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        epoch = producer.epoch
        with pytest.raises(OutcomeUnknown):
            await producer.send(record("ghost"), partition=0)
        faulty.faults.clear()
        await producer.send(record("after"), partition=0)
        await producer.send(record("elsewhere"), partition=1)
        assert producer.epoch > epoch
        topic, partition, records = faulty.ghosts[-1]
        with pytest.raises(ProducerFenced):
            await faulty.log.append(topic, partition, records)
    assert await contents(faulty.log) == [b"after"]


async def test_the_epoch_rises_without_fencing_the_producers_own_other_partition(faulty: FaultyLog) -> None:
    faulty.faults.extend([Fault.LOST_UNSAID] * 12)
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        tickets = [await producer.submit(record(str(i)), partition=i % 2) for i in range(20)]
        outcomes = await asyncio.gather(*tickets, return_exceptions=True)
    assert not [o for o in outcomes if isinstance(o, ProducerFenced)]
    stored = {*(await contents(faulty.log, 0)), *(await contents(faulty.log, 1))}
    for i, outcome in enumerate(outcomes):
        assert isinstance(outcome, OutcomeUnknown) or str(i).encode() in stored


async def test_given_up_but_surely_not_stored_is_said_as_that(faulty: FaultyLog) -> None:
    faulty.faults.extend([Fault.NOT_STORED] * 1000)
    async with Producer(faulty.log, "t", policy=QUICK) as producer:
        with pytest.raises(LogUnavailable):
            await producer.send(record("x"), partition=0)


async def test_a_zombie_producer_is_refused_after_its_successor_wrote(log: Log) -> None:
    async with Producer(log, "t", producer_id="router") as zombie:
        await zombie.send(record("1"), partition=0)
        async with Producer(log, "t", producer_id="router") as successor:
            await successor.send(record("2"), partition=0)
        with pytest.raises(ProducerFenced):
            await zombie.send(record("3"), partition=0)
        with pytest.raises(ProducerFenced):
            await zombie.submit(record("4"), partition=0)
    assert await contents(log) == [b"1", b"2"]


async def test_a_foreign_mark_is_kept_and_its_repeat_is_told_the_first_offset(log: Log) -> None:
    async with Producer(log, "t") as producer:
        foreign = Record(parts=(b"x",), mark=Mark("engine", 0, 7))
        first = await producer.send(foreign, partition=0)
        again = await producer.send(foreign, partition=0)
    assert first == again
    assert await contents(log) == [b"x"]


async def test_one_fenced_source_does_not_take_the_others_with_it(faulty: FaultyLog) -> None:
    await faulty.log.append("t", 0, [Record(parts=(b"new",), mark=Mark("zombie", 5, 0))])
    faulty.gate.clear()
    async with Producer(faulty.log, "t") as producer:
        good = await producer.submit(Record(parts=(b"good",), mark=Mark("alive", 0, 0)), partition=0)
        bad = await producer.submit(Record(parts=(b"bad",), mark=Mark("zombie", 4, 0)), partition=0)
        own = await producer.submit(record("own"), partition=0)
        faulty.gate.set()
        assert (await good).partition == 0
        await own
        with pytest.raises(ProducerFenced):
            await bad
    assert set(await contents(faulty.log)) == {b"new", b"good", b"own"}


async def test_what_cannot_be_stored_is_refused_before_it_is_taken(log: Log) -> None:
    async with Producer(log, "t") as producer:
        with pytest.raises(BatchTooLarge):
            await producer.submit(record("x" * (log.capabilities.max_batch_bytes + 1)))
        with pytest.raises(MalformedRecord):
            await producer.submit(Record(parts=("text",)))  # type: ignore[arg-type]
        with pytest.raises(PartitionNotFound):
            await producer.submit(record("x"), partition=2)
        biggest = record("x" * (log.capabilities.max_batch_bytes - 400))
        assert (await producer.send(biggest, partition=0)).offset == 0


async def test_leaving_the_block_waits_for_every_ticket(log: Log) -> None:
    async with Producer(log, "t") as producer:
        tickets = [await producer.submit(record(str(i)), partition=0) for i in range(50)]
    assert all(ticket.done for ticket in tickets)
    with pytest.raises(Closed):
        await producer.submit(record("late"))


async def test_close_gives_up_after_its_timeout_and_says_so_to_every_ticket(faulty: FaultyLog) -> None:
    faulty.gate.clear()
    producer = await Producer(faulty.log, "t").__aenter__()
    first = await producer.submit(record("1"), partition=0)
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0))])
    second = await producer.submit(record("2"), partition=0)
    with pytest.raises(DynlogError):
        await producer.close(timeout=0.05)
    with pytest.raises(OutcomeUnknown):
        await first
    with pytest.raises((Closed, OutcomeUnknown)):
        await second
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("dynlog-producer")]


async def test_a_failure_that_nobody_awaited_is_raised_by_flush(faulty: FaultyLog) -> None:
    faulty.faults.extend([Fault.NOT_STORED] * 1000)
    producer = await Producer(faulty.log, "t", policy=QUICK).__aenter__()
    await producer.submit(record("1"), partition=0)
    with pytest.raises(LogUnavailable):
        await producer.flush()
    await producer.close()
