"""The state machine: random steps on a real log, each compared with the oracle; at the end, everything is."""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dynlog.batch import Position
from dynlog.errors import CommitFenced, LogDiverged, OffsetTruncated, ProducerFenced, TopicNotFound
from dynlog.log import Log
from dynlog.marks import UNKNOWN_OFFSET
from dynlog.open import open_log
from dynlog.producer import Producer
from dynlog.reader import Reader
from dynlog.record import Mark, Record
from dynlog.timing import ManualClock
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import TOPIC, bodies
from tests.model.oracle import Fenced, Group, Held, Oracle

T = TypeVar("T")
PARTITIONS = 2
NEXT_S = 5.0
PRODUCER = "restarted"

partitions = st.integers(0, PARTITIONS - 1)
marks = st.builds(Mark, st.sampled_from("pq"), st.integers(1, 3), st.integers(0, 6))
runs = st.builds(
    lambda mark, n: [mark._replace(sequence=mark.sequence + i) for i in range(n)], marks, st.integers(1, 4)
)
appends = st.lists(runs | st.just([None]) | st.just([None] * 5), min_size=1, max_size=3)
names = st.sampled_from(["h1", "h2"])
groups = st.sampled_from(["g1", "g2"])


class LogMachine(RuleBasedStateMachine):
    """A subclass says where the log lies; `close_files` takes away what it left."""

    @abstractmethod
    def url(self) -> str:
        """The URL of a new log."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.oracle = Oracle(PARTITIONS)
        self.numbers = itertools.count()
        self.stale: Position | None = None
        self.address = self.url()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(self._in_time(coroutine))

    async def _in_time(self, coroutine: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(60):
            return await coroutine

    # Opening and closing

    @initialize()
    def opened(self) -> None:
        self.run(self._open())
        self.run(self._begin())

    async def _open(self) -> None:
        """Two handles, so that one of them may close and open again on every engine."""
        self.keeper, self.handle = AsyncExitStack(), AsyncExitStack()
        self.other: Log = await self.keeper.enter_async_context(open_log(self.address, clock=self.clock))
        self.log: Log = await self.handle.enter_async_context(open_log(self.address, clock=self.clock))

    async def _begin(self) -> None:
        self.oracle.fences_at_registration = self.log.capabilities.fences_at_registration
        self.info = await self.log.create_topic(TOPIC, partitions=PARTITIONS)
        self.reader = await Reader.open(self.other, TOPIC)
        self.producer = await Producer(self.other, TOPIC, producer_id=PRODUCER).__aenter__()
        self.zombie: Producer | None = None

    @rule()
    def the_log_is_opened_anew(self) -> None:
        async def again() -> None:
            await self.handle.aclose()
            self.log = await self.handle.enter_async_context(open_log(self.address, clock=self.clock))

        self.run(again())

    # Records

    @rule(partition=partitions, lists=appends)
    def records_are_appended(self, partition: int, lists: list[list[Mark | None]]) -> None:
        given = [mark for part in lists for mark in part]
        texts = [f"r{next(self.numbers)}" for _ in given]
        records = [Record(parts=(text.encode(),), mark=mark) for text, mark in zip(texts, given, strict=True)]
        try:
            expected, repeats = self.oracle.append(partition, texts, given, self.clock.time_ms())
        except Fenced:
            with pytest.raises(ProducerFenced):
                self.run(self.log.append(TOPIC, partition, records))
            return
        appended = self.run(self.log.append(TOPIC, partition, records))
        for told, offset in zip(appended.offsets, expected, strict=True):
            assert told in (offset, UNKNOWN_OFFSET) if offset != UNKNOWN_OFFSET else told == UNKNOWN_OFFSET
        assert (appended.duplicates, appended.end_offset) == (repeats, self.oracle.partitions[partition].end)

    @rule(producer=st.sampled_from("pq"))
    def a_producer_registers(self, producer: str) -> None:
        epoch = self.run(self.log.register_producer(producer))
        assert epoch > self.oracle.registered.get(producer, 0)
        self.oracle.registered[producer] = epoch

    @rule(partition=partitions, count=st.integers(1, 6))
    def a_producer_sends(self, partition: int, count: int) -> None:
        self._send(partition, count)

    def _send(self, partition: int, count: int) -> None:
        texts = [f"s{next(self.numbers)}" for _ in range(count)]

        async def send() -> list[int]:
            tickets = [await self.producer.submit(Record(parts=(t.encode(),)), partition=partition) for t in texts]
            return [(await ticket).offset for ticket in tickets]

        told = self.run(send())
        expected, _ = self.oracle.append(partition, texts, [None] * count, self.clock.time_ms())
        assert told == expected

    @rule()
    def the_producer_restarts_and_its_old_self_becomes_a_zombie(self) -> None:
        async def restart() -> None:
            if self.zombie is not None:
                await self.zombie.close()
            self.zombie = self.producer
            self.producer = await Producer(self.log, TOPIC, producer_id=PRODUCER).__aenter__()
            await self.producer.close()  # of the handle that may close; the next one is of the handle that stays
            self.producer = await Producer(self.other, TOPIC, producer_id=PRODUCER).__aenter__()
            assert self.producer.epoch > self.zombie.epoch

        self.run(restart())

    @precondition(lambda self: self.zombie is not None)
    @rule(partition=partitions)
    def a_zombie_sends(self, partition: int) -> None:
        zombie, record = self.zombie, Record(parts=(b"zombie",))
        assert zombie is not None
        if not self.oracle.fences_at_registration:
            self._send(partition, 1)  # fenced at the latest once its successor wrote there
        with pytest.raises(ProducerFenced):
            self.run(zombie.send(record, partition=partition))

    @rule(partition=partitions, back=st.integers(-1, 8), most=st.none() | st.integers(1, 4))
    def records_are_read(self, partition: int, back: int, most: int | None) -> None:
        """From ``back`` records before the end on (-1: beyond it)."""
        expected = self.oracle.partitions[partition]
        offset = max(expected.end - back, 0)
        reading = self.log.read(Position(TOPIC, self.info.incarnation, partition, offset), max_records=most)
        if offset > expected.end:
            with pytest.raises(LogDiverged):
                self.run(reading)
        elif offset < expected.start:
            with pytest.raises(OffsetTruncated) as caught:
                self.run(reading)
            assert caught.value.earliest == expected.start
        else:
            batch = self.run(reading)
            stop = expected.end if most is None else min(offset + most, expected.end)
            assert list(batch.offsets) == list(range(offset, stop))
            assert [body[0].decode() for body in batch.bodies] == expected.history[offset:stop]
            assert (batch.next_offset, batch.end_offset) == (stop, expected.end)

    @rule()
    def the_reader_catches_up(self) -> None:
        self.run(self._follow())

    async def _follow(self) -> None:
        """Each record once and in order; where truncation overtook the reader it is told, and begins anew."""

        def behind() -> bool:
            return any(self.reader.positions[n].offset < p.end for n, p in enumerate(self.oracle.partitions))

        while behind():
            before = {number: position.offset for number, position in self.reader.positions.items()}
            batch, overrun = None, False
            try:
                batch = await self.reader.next(NEXT_S)
            except OffsetTruncated:
                overrun = True
            if overrun:
                assert any(before[number] < p.start for number, p in enumerate(self.oracle.partitions))
                await self.reader.close()
                self.reader = await Reader.open(self.other, TOPIC)
                continue
            assert batch is not None, "the reader waits although there is more"
            history = self.oracle.partitions[batch.partition].history
            assert list(batch.offsets) == list(range(before[batch.partition], batch.next_offset))
            assert [body[0].decode() for body in batch.bodies] == [history[offset] for offset in batch.offsets]

    # Holders, truncation, groups

    @rule(partition=partitions, back=st.integers(-1, 6), force=st.booleans())
    def a_partition_is_truncated(self, partition: int, back: int, force: bool) -> None:
        expected = self.oracle.partitions[partition]
        before = max(expected.end - back, 0)
        truncating = self.log.truncate(TOPIC, partition, before, force=force)
        if before > expected.end:
            with pytest.raises(LogDiverged):
                self.run(truncating)
            return
        done = self.run(truncating)
        earliest, blockers = self.oracle.truncate(partition, before, force)
        assert (done.earliest, done.requested) == (earliest, before)
        if not force:
            assert sorted(done.blocked_by) == blockers

    @rule(
        name=names, kind=st.sampled_from(HolderKind), back=st.dictionaries(partitions, st.integers(-1, 6), min_size=1)
    )
    def somebody_holds(self, name: str, kind: HolderKind, back: dict[int, int]) -> None:
        positions = {n: max(self.oracle.partitions[n].end - many, 0) for n, many in back.items()}
        holding = self.log.hold(TOPIC, Holder(name, kind, positions))
        wrong = self._out_of_bounds(positions)
        if wrong:
            with pytest.raises(wrong):
                self.run(holding)
        else:
            self.run(holding)
            self.oracle.held[name] = Held(kind, positions, self.clock.time_ms())

    def _out_of_bounds(self, positions: dict[int, int]) -> tuple[type[Exception], ...]:
        known = self.oracle.partitions
        wrong: list[type[Exception]] = []
        wrong += [LogDiverged for n, offset in positions.items() if offset > known[n].end]
        wrong += [OffsetTruncated for n, offset in positions.items() if offset < known[n].start]
        return tuple(wrong)

    @rule(name=names)
    def somebody_releases(self, name: str) -> None:
        self.run(self.log.release(TOPIC, name))
        self.oracle.held.pop(name, None)

    @rule(group=groups)
    def a_generation_opens(self, group: str) -> None:
        known = self.oracle.groups.setdefault(group, Group())
        generation = self.run(self.log.open_generation(group, TOPIC))
        assert generation > known.generation
        known.generation = generation
        # Whether this counts as a heartbeat of the group's holder is nowhere said, nor what is held of what is gone.
        self.oracle.held.pop(f"group:{group}", None)
        for state in self.run(self.log.holders(TOPIC)):
            if state.holder.name == f"group:{group}" and not state.expired and known.positions:
                assert self._left_of(state.holder.positions) == self._left_of(known.positions)
                held = Held(HolderKind.NAMED, dict(state.holder.positions), self.clock.time_ms())
                self.oracle.held[f"group:{group}"] = held

    @rule(group=groups, back=st.tuples(*[st.integers(0, 6)] * PARTITIONS))
    def a_group_seeks(self, group: str, back: tuple[int, ...]) -> None:
        """To what is still there; all partitions, for what a seek of some does to the others is nowhere said."""
        positions = {n: max(p.end - back[n], p.start) for n, p in enumerate(self.oracle.partitions)}
        generation = self.run(self.log.open_generation(group, TOPIC, positions))
        assert generation > self.oracle.groups.get(group, Group()).generation
        self.oracle.groups[group] = Group(generation, positions)
        self.oracle.held[f"group:{group}"] = Held(HolderKind.NAMED, dict(positions), self.clock.time_ms())

    @rule(group=groups, behind=st.sampled_from([0, 0, 0, 1, -1]), partition=partitions, back=st.integers(-1, 6))
    def a_group_commits(self, group: str, behind: int, partition: int, back: int) -> None:
        known, expected = self.oracle.groups.get(group, Group()), self.oracle.partitions[partition]
        offset = max(expected.end - back, expected.start)
        committing = self.log.commit(group, TOPIC, {partition: offset}, generation=known.generation - behind)
        if behind or not known.generation:
            with pytest.raises((CommitFenced, LogDiverged) if offset > expected.end else CommitFenced):
                self.run(committing)
        elif offset > expected.end:
            with pytest.raises(LogDiverged):
                self.run(committing)
        else:
            state = self.run(committing)
            known.positions[partition] = max(offset, known.positions.get(partition, 0))
            assert (state.generation, dict(state.positions)) == (known.generation, known.positions)
            held = Held(HolderKind.NAMED, dict(known.positions), self.clock.time_ms())
            self.oracle.held[f"group:{group}"] = held

    # Time and topics

    @rule(seconds=st.sampled_from([-30.0, 0.001, 1.0, 250.5, 650.25, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.run(self.log.enforce_retention(TOPIC))
        self.oracle.expire(self.clock.time_ms())

    @rule()
    def the_topic_is_deleted_and_created_anew(self) -> None:
        async def recreate() -> None:
            self.stale = await self.log.position(TOPIC, 0)
            await self.log.delete_topic(TOPIC)
            with pytest.raises((LogDiverged, TopicNotFound)):
                await self._read_on_for_ever()
            await self._end()
            await self._begin()
            self.oracle.recreate(PARTITIONS)

        self.run(recreate())

    async def _read_on_for_ever(self) -> None:
        """What the reader had fetched before its topic was deleted is still good."""
        while True:
            assert await self.reader.next(NEXT_S) is not None, "the reader waits in a deleted topic"

    @precondition(lambda self: self.stale is not None)
    @rule()
    def a_position_of_the_deleted_topic_is_read(self) -> None:
        assert self.stale is not None
        with pytest.raises(LogDiverged):
            self.run(self.log.read(self.stale, wait=30))

    @invariant()
    def bounds_holders_and_commits_are_as_expected(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        expected = self.oracle
        states = await self.log.partitions(TOPIC)
        assert [(s.earliest, s.end) for s in states] == [(p.start, p.end) for p in expected.partitions]
        holders = {s.holder.name: s.holder.positions for s in await self.log.holders(TOPIC) if not s.expired}
        assert {name: self._left_of(at) for name, at in holders.items() if at} == {
            name: self._left_of(held.positions) for name, held in expected.held.items()
        }
        for group in ("g1", "g2"):
            state, known = await self.log.committed(group, TOPIC), expected.groups.get(group, Group())
            assert (state.generation, dict(state.positions)) == (known.generation, known.positions)

    def _left_of(self, positions: Mapping[int, int]) -> dict[int, int]:
        """What is held of what a forced truncation left: a group's commit may lie below the start."""
        return {number: max(offset, self.oracle.partitions[number].start) for number, offset in positions.items()}

    async def _end(self) -> None:
        await self.reader.close()
        for producer in (self.producer, self.zombie):
            if producer is not None:
                await producer.close()

    def teardown(self) -> None:
        if hasattr(self, "producer"):
            self.run(self._last_look())
        self.runner.close()
        self.close_files()

    async def _last_look(self) -> None:
        try:
            await self._follow()
            for number, partition in enumerate(self.oracle.partitions):
                assert await bodies(self.other, TOPIC, number) == partition.history[partition.start :]
            assert [damage async for damage in self.log.verify()] == []
        finally:
            await self._end()
            await self.handle.aclose()
            await self.keeper.aclose()

    def close_files(self) -> None:
        """Nothing to take away."""
