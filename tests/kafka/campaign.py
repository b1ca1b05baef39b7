"""Load on a log while its brokers fail, and the oracle outside that judges what the log holds afterwards.

Two producers append marked records and note what was acknowledged; a reader with a dedupe table follows; a group
commits what was read.  Afterwards: nothing acknowledged is missing, the reader saw nothing twice, in each producer's
order, what was committed is not behind what the last acknowledged commit said, and no task is left.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import DeadlineExceeded, LogUnavailable, OutcomeUnknown
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Mark, Record

TOPIC = "load"
PARTITIONS = 2
PRODUCERS = 2
_POLICY = DeliveryPolicy(timeout_s=90.0, attempt_timeout_s=4.0)
_END_S = 60.0


@dataclass
class Campaign:
    """What was acknowledged and what was read; ``url`` is the log under load."""

    url: str
    acknowledged: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[int, int] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def count(self) -> int:
        """How many records were acknowledged so far."""
        return sum(map(len, self.acknowledged.values()))

    async def more(self, records: int) -> None:
        """Until so many more were acknowledged."""
        goal = self.count + records
        async with asyncio.timeout(_END_S), self.progress:
            await self.progress.wait_for(lambda: self.count >= goal)

    async def produce(self, number: int) -> None:
        """One producer: three records at a time, until told to stop."""
        async with open_log(self.url) as log:
            sequence = 0
            while not self.stop.is_set():
                partition = sequence // 3 % PARTITIONS
                names = [f"{number}:{sequence + i}" for i in range(3)]
                records = [
                    Record(parts=(name.encode(),), mark=Mark(f"p{number}", 1, sequence + i))
                    for i, name in enumerate(names)
                ]
                await deliver(log, TOPIC, partition, records, _POLICY)
                sequence += 3
                self.acknowledged[partition] += names
                async with self.progress:
                    self.progress.notify_all()

    async def consume(self) -> None:
        """Follows until everything acknowledged by the end was seen, and commits on the way."""
        async with open_log(self.url) as log:
            generation = await log.open_generation("readers", TOPIC)
            async with await Reader.open(log, TOPIC) as reader:
                while not (self.stop.is_set() and self._all_seen()):
                    try:
                        batch = await reader.next(0.2)
                    except LogUnavailable:
                        continue
                    if batch is None:
                        continue
                    self.seen[batch.partition] += [bytes(body[0]).decode() for body in batch.bodies]
                    await self._commit(log, generation, batch.partition, batch.next_offset)

    async def _commit(self, log: Log, generation: int, partition: int, offset: int) -> None:
        try:
            await log.commit("readers", TOPIC, {partition: offset}, generation=generation, timeout=3.0)
        except (LogUnavailable, OutcomeUnknown, DeadlineExceeded):
            return
        self.committed[partition] = offset

    def _all_seen(self) -> bool:
        return all(set(names) <= set(self.seen[partition]) for partition, names in self.acknowledged.items())

    async def judge(self, url: str) -> None:
        """The oracle: what a fresh handle finds, and what the reader saw."""
        async with open_log(url) as log:
            for partition in range(PARTITIONS):
                found = await _everything(log, partition)
                missing = set(self.acknowledged[partition]) - set(found)
                assert not missing, f"partition {partition} lost {len(missing)} acknowledged: {sorted(missing)[:5]}"
                seen = self.seen[partition]
                assert len(seen) == len(set(seen)), f"partition {partition}: the reader saw records twice"
                for producer in range(PRODUCERS):
                    mine = [int(name.partition(":")[2]) for name in seen if name.startswith(f"{producer}:")]
                    assert mine == sorted(mine), f"partition {partition}: producer {producer} is out of order"
            state = await log.committed("readers", TOPIC)
            for partition, offset in self.committed.items():
                assert state.positions[partition] >= offset, "an acknowledged commit is missing"


async def _everything(log: Log, partition: int) -> list[str]:
    found: list[str] = []
    position = await log.position(TOPIC, partition)
    while True:
        batch = await log.read(position)
        found += [bytes(body[0]).decode() for body in batch.bodies]
        position = batch.next_position
        if batch.next_offset == batch.end_offset:
            return found


@asynccontextmanager
async def working(url: str, direct: str) -> AsyncIterator[Campaign]:
    """Everybody at work through ``url`` while the block makes brokers fail; then all is judged through ``direct``."""
    async with open_log(direct) as log:
        await log.create_topic(TOPIC, partitions=PARTITIONS)
    campaign = Campaign(url)
    async with asyncio.TaskGroup() as group:
        for number in range(PRODUCERS):
            group.create_task(campaign.produce(number))
        group.create_task(campaign.consume())
        yield campaign
        campaign.stop.set()
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("dynlog")]
    assert not left, f"tasks were left behind: {left}"
    await campaign.judge(direct)
