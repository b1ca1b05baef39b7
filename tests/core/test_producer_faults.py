"""A producer among failing logs, successors and odd bodies: every ticket gets its outcome, and a true one."""

from __future__ import annotations

import asyncio

import pytest

from dynlog import Record, open_log
from dynlog.delivery import DeliveryPolicy
from dynlog.errors import LogUnavailable, OutcomeUnknown, ProducerFenced
from dynlog.producer import Producer
from dynlog.record import Mark
from dynlog.timing import Backoff
from tests.faulty import Fault, FaultyLog

QUICK = DeliveryPolicy(timeout_s=0.2, attempt_timeout_s=0.1, backoff=Backoff(0.001, 2.0, 0.01))


async def test_close_returns_although_the_log_died_after_an_append_of_unknown_outcome() -> None:
    """A failed fsync: the first append is OutcomeUnknown, then every call is LogUnavailable, for ever."""
    async with open_log("memory://") as real:
        await real.create_topic("t")
        log = FaultyLog(real)
        producer = await Producer(log.log, "t", policy=QUICK).__aenter__()
        log.faults.append(Fault.LOST_UNSAID)
        log.gate.clear()
        ticket = await producer.submit(Record((b"a",)))
        log.gate.set()
        await asyncio.sleep(0)
        while not log.appends:  # noqa: ASYNC110
            await asyncio.sleep(0)
        log.down = True
        with pytest.raises(OutcomeUnknown):
            await ticket
        closing = asyncio.create_task(producer.close())
        done, _ = await asyncio.wait([closing], timeout=5.0)  # 25 times the policy's whole time
        try:
            assert done, "close() hangs: the epoch is being raised without end"
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)


async def test_a_ticket_submitted_while_the_epoch_rises_gets_its_outcome_within_the_policys_time() -> None:
    async with open_log("memory://") as real:
        await real.create_topic("t")
        log = FaultyLog(real)
        producer = await Producer(log.log, "t", policy=QUICK).__aenter__()
        log.faults.append(Fault.LOST_UNSAID)
        ticket = await producer.submit(Record((b"a",)))
        while not log.appends:  # noqa: ASYNC110
            await asyncio.sleep(0)
        log.down = True
        with pytest.raises(OutcomeUnknown):
            await ticket
        second = await producer.submit(Record((b"b",)))
        waiter = asyncio.ensure_future(second.settled())
        done, _ = await asyncio.wait([waiter], timeout=5.0)
        try:
            assert done, "the second ticket never learns its outcome"
        finally:
            waiter.cancel()
            await asyncio.gather(producer.close(timeout=0.01), return_exceptions=True)


async def test_a_zombie_whose_append_was_given_up_does_not_fence_its_successor() -> None:
    async with open_log("memory://") as real:
        await real.create_topic("t", partitions=1)
        log = FaultyLog(real)
        old = await Producer(log.log, "t", producer_id="p", policy=QUICK).__aenter__()
        log.faults.extend([Fault.LOST_UNSAID] * 100)  # the old one is cut off
        ticket = await old.submit(Record((b"old",)))
        async with Producer(real, "t", producer_id="p") as new:  # its orchestrator starts another one
            await new.send(Record((b"new 1",)))
            with pytest.raises(OutcomeUnknown):
                await ticket
            log.faults.clear()
            for _ in range(20):
                await asyncio.sleep(0.01)
            await new.send(Record((b"new 2",)))  # must not be ProducerFenced: it is the newest that was opened
            with pytest.raises(ProducerFenced):
                await old.send(Record((b"zombie",)))
        await old.close()


async def test_every_ticket_gets_its_outcome_also_for_a_body_that_cannot_be_encoded() -> None:
    async with open_log("memory://") as log:
        await log.create_topic("t")
        producer = await Producer(log, "t").__aenter__()
        gate = asyncio.Event()
        good = bad = None
        try:
            good = await producer.submit(Record((b"good",)))
            bad = await producer.submit(Record((memoryview(b"abcdef")[::2],)))
        except Exception:
            gate.set()  # refused at the door: fine
        if bad is not None and good is not None:
            for ticket in (good, bad):
                waiter = asyncio.ensure_future(ticket.settled())
                done, _ = await asyncio.wait([waiter], timeout=2.0)
                waiter.cancel()
                assert done, "a ticket that never gets an outcome"
        await producer.close()


async def test_a_foreign_record_that_failed_is_not_acknowledged_as_a_repeat_when_it_is_sent_again() -> None:
    async with open_log("memory://") as real:
        await real.create_topic("t")
        log = FaultyLog(real)
        async with Producer(log.log, "t", policy=QUICK) as producer:
            log.faults.extend([Fault.NOT_STORED] * 10_000)
            first = await producer.submit(Record((b"one",), mark=Mark("src", 0, 1)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second = await producer.submit(Record((b"two",), mark=Mark("src", 0, 2)))
            with pytest.raises(LogUnavailable):
                await first
            log.faults.clear()
            with pytest.raises(LogUnavailable):
                await second
            stored = await producer.send(Record((b"one",), mark=Mark("src", 0, 1)))  # the caller repeats it
            batch = await real.read(await real.position("t", 0))
            bodies = [bytes(body[0]) for body in batch.bodies]
            assert b"one" in bodies, f"acknowledged as {stored}, and not in the log: {bodies}"
