"""Events over a log and a wire that cannot be relied on: an oracle outside says who has to hear what."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.log import Log
from dynlog.network.calls import NO_HEADERS
from dynlog.network.events import Event, from_push
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.publishing import Publisher
from dynlog.network.registry import LocalRegistry
from dynlog.network.subscribing import Subscription
from dynlog.open import open_log
from tests.network.call_backend import PATIENCE_S

FLEET = DynamoEntityID.collection("fleet")
BACKEND, FRONTEND = DynamoEntityID.collection("fleet/backend"), DynamoEntityID.collection("fleet/frontend")
A, B, C = (DynamoEntityID.from_name(name) for name in "abc")
PARENTS = {BACKEND: (FLEET,), FRONTEND: (FLEET,), A: (BACKEND,), B: (BACKEND, FRONTEND), C: (FRONTEND,)}
TARGETS = [FLEET, BACKEND, FRONTEND, A, B, C]
ABOVE = {FLEET: {FLEET}, BACKEND: {BACKEND, FLEET}, FRONTEND: {FRONTEND, FLEET}} | {
    A: {A, BACKEND, FLEET}, B: {B, BACKEND, FRONTEND, FLEET}, C: {C, FRONTEND, FLEET},
}  # fmt: skip
"""Written out, not asked of the registry."""
PUBLISHERS = [DynamoEntityID.from_name(f"publisher-{n}") for n in range(3)]


class BadWire:
    """Loses, repeats, delays and exchanges what it is given, as its dice say."""

    def __init__(self, dice: Random) -> None:
        self.subscriptions: dict[DynamoEntityID, list[Subscription]] = defaultdict(list)
        self.fates: Counter[str] = Counter()
        self.taken = 0
        """Pushes that were taken from it rather than read from the log."""
        self._dice = dice
        self._held: list[tuple[Member, Event]] = []

    def push(self, member: Member, topic: str, encoded: bytes, event: Event) -> bool:
        fate = self._dice.choice(("lost", "refused", "once", "once", "once", "twice", "late"))
        self.fates[fate] += 1
        if fate == "refused":
            return False
        pushed = from_push(topic, encoded)
        match fate:
            case "once":
                self._give(member, pushed)
            case "twice":
                self._give(member, pushed)
                self._held.append((member, pushed))
            case "late":
                self._held.append((member, pushed))
        if len(self._held) > 5:
            self._dice.shuffle(self._held)
            while self._held:
                self._give(*self._held.pop())
        return True

    async def reach(self, member: Member) -> None:
        raise AssertionError("what is in the log is worth no waiting for a wire")

    def _give(self, member: Member, event: Event) -> None:
        for subscription in self.subscriptions[member.entity]:
            self.taken += subscription.pushed(event, None)


class PushSuite(ABC):
    """One log under test."""

    seeds = range(6)
    events = 120

    @abstractmethod
    def url(self, tmp_path: Path) -> str:
        """Of a new log."""

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[Log]:
        async with open_log(self.url(tmp_path)) as log:
            yield log

    async def test_each_hears_what_was_for_it_once_and_in_order_whatever_becomes_of_pushes(self, log: Log) -> None:
        wires = [await self._round(log, Random(seed)) for seed in self.seeds]
        fates = sum((wire.fates for wire in wires), Counter[str]())
        assert set(fates) == {"lost", "refused", "once", "twice", "late"}
        assert sum(wire.taken for wire in wires) > 0

    async def test_a_topic_that_is_followed_late_is_read_from_where_the_edge_began(self, log: Log) -> None:
        registry, heard, more = LocalRegistry(), list[str](), asyncio.Event()
        for entity in (A, BACKEND, FLEET):
            await registry.join(Member(entity, (BACKEND,) if entity == A else ()))

        async def hear(event: Event) -> None:
            heard.append(bytes(event.body).decode())
            more.set()

        async def publish(*bodies: str) -> None:
            for body in bodies:
                await publisher.publish(FLEET, "news", body.encode(), NO_HEADERS, None)

        publisher = Publisher(log, registry, PUBLISHERS[0], BadWire(Random(0)))
        subscription = Subscription(A, "news", hear, registry, log)
        await subscription.start()
        await publish("before", "before, too")
        await registry.join(Member(BACKEND, (FLEET,)))
        await publish("1", "2", "3")
        await asyncio.gather(*(subscription.follow(registry.view.above(A)) for _ in range(3)))
        await publish("4")
        async with asyncio.timeout(PATIENCE_S):
            while "4" not in heard:
                more.clear()
                await more.wait()
        assert heard == ["1", "2", "3", "4"]
        await subscription.close()
        await publisher.close()

    async def _round(self, log: Log, dice: Random) -> BadWire:
        registry, wire = LocalRegistry(), BadWire(dice)
        for entity, parents in PARENTS.items():
            await registry.join(Member(entity, parents))
        heard: dict[DynamoEntityID, list[tuple[str, str, int]]] = {entity: [] for entity in TARGETS}
        more = asyncio.Event()
        topic = f"numbers-{dice.random()}"
        async with AsyncExitStack() as stack:
            for number, entity in enumerate(TARGETS):

                async def hear(event: Event, entity: DynamoEntityID = entity) -> None:
                    if dice.random() < 0.1:
                        await asyncio.sleep(0)
                    heard[entity].append((str(event.sender), str(event.target), int(bytes(event.body))))
                    more.set()

                process = Member(DynamoEntityID.from_name(f"process-{number}"), interests=_interests(entity, topic))
                await registry.join(process)
                subscription = Subscription(entity, topic, hear, registry, log)
                await subscription.start()
                stack.push_async_callback(subscription.close)
                wire.subscriptions[process.entity].append(subscription)
            said = await self._publish(log, registry, wire, dice, topic)
            async with asyncio.timeout(PATIENCE_S * 2):
                for entity in TARGETS:
                    expected = [event for event in said if event[1] in {str(above) for above in ABOVE[entity]}]
                    while len(heard[entity]) < len(expected):
                        more.clear()
                        await more.wait()
                    assert sorted(heard[entity]) == sorted(expected)
                    assert _by_line(heard[entity]) == _by_line(expected)
        return wire

    async def _publish(
        self, log: Log, registry: LocalRegistry, wire: BadWire, dice: Random, topic: str
    ) -> list[tuple[str, str, int]]:
        """Several publishers at once; what each said to whom, in its order."""
        said: list[tuple[str, str, int]] = []

        async def work(sender: DynamoEntityID) -> None:
            publisher = Publisher(log, registry, sender, wire)
            for number in range(self.events // len(PUBLISHERS)):
                target = dice.choice(TARGETS)
                said.append((str(sender), str(target), number))
                await publisher.publish(target, topic, b"%d" % number, NO_HEADERS, None)
            await publisher.close()

        async with asyncio.TaskGroup() as tasks:
            for sender in PUBLISHERS:
                tasks.create_task(work(sender))
        return said


def _interests(entity: DynamoEntityID, topic: str) -> frozenset[Interest]:
    return frozenset({Interest(entity, topic)})


def _by_line(events: list[tuple[str, str, int]]) -> dict[tuple[str, str], list[int]]:
    """The numbers that each publisher sent to each target, in order."""
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for sender, target, number in events:
        lines[sender, target].append(number)
    return lines
