"""The cluster as one party to talk to: any broker for questions, a partition's leader for its records.

Every call has a deadline.  What is told again and again until then: no connection, no leader, a broker that does not
know a topic yet.  Where repeating could do something twice the caller repeats, not this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dynlog.errors import LogUnavailable
from dynlog.storage.kafka.failures import GONE, INVALID_TOPIC, TRANSIENT, NotSent, refused
from dynlog.storage.kafka.options import Settings
from dynlog.storage.kafka.protocol import MetadataRequest
from dynlog.storage.kafka.wires import ANSWER_S, CONNECT_S, Address, Purpose, Wires
from dynlog.timing import Backoff, Deadline

T = TypeVar("T")
BACKOFF = Backoff(first=0.01, most=0.5)


@dataclass(frozen=True, slots=True)
class Place:
    """A Kafka topic as the brokers know it: ``leaders`` has -1 where there is none now."""

    name: str
    id: bytes
    leaders: Mapping[int, int]
    replicas: int

    @property
    def incarnation(self) -> str:
        """Kafka's topic id."""
        return self.id.hex()


class Cluster:
    """Brokers and leaders as last heard of."""

    def __init__(self, settings: Settings) -> None:
        self._bootstrap = [Address(*place) for place in settings.brokers]
        self._brokers: dict[int, Address] = {}
        self._answered: list[Address] = []  # the one that answered last is asked first
        self._places: dict[str, Place] = {}
        self._wires = Wires(settings)

    @property
    def brokers(self) -> Mapping[int, Address]:
        """All brokers by node id, as last heard of."""
        return self._brokers

    async def close(self) -> None:
        """Closes the connections."""
        await self._wires.close()

    async def ask_any(self, request: Any, deadline: Deadline) -> Any:
        """The answer of whichever broker answers; each is asked once.  Raises LogUnavailable."""
        known = dict.fromkeys([*self._answered, *self._brokers.values(), *self._bootstrap])
        failures: list[LogUnavailable] = []
        for address in known:
            # A broker that hangs must leave time for the next one.
            share = max(min(deadline.remaining / (len(known) - len(failures)), CONNECT_S), 0.05)
            try:
                answer = await self._wires.ask(address, Purpose.ASK, request, share)
            except LogUnavailable as error:
                failures.append(error)
            else:
                self._answered = [address]
                return answer
        self._answered = []
        raise failures[0] if len(failures) == 1 else NotSent("; ".join(map(str, failures)))

    async def ask_all(self, request: Any, deadline: Deadline) -> list[Any]:
        """The answers of all brokers; those that cannot be reached are left out."""
        outcomes = await asyncio.gather(
            *(self.ask_node(node, Purpose.ASK, request, deadline) for node in self._brokers), return_exceptions=True
        )
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    async def ask_node(self, node: int, purpose: Purpose, request: Any, deadline: Deadline) -> Any:
        """The answer of that broker; raises LogUnavailable."""
        address = self._brokers.get(node)
        if address is None:
            raise NotSent(f"no broker of node id {node} is known")
        return await self._wires.ask(address, purpose, request, min(deadline.remaining, ANSWER_S))

    async def describe(self, names: Sequence[str] | None, deadline: Deadline) -> dict[str, Place]:
        """The topics of those names that exist, or all; asks the brokers and remembers the leaders."""
        answer = await self.until_done(lambda: self.ask_any(MetadataRequest(names), deadline), deadline)
        if answer.brokers:
            self._brokers = {node: Address(host, port) for node, host, port, *_ in answer.brokers}
        found: dict[str, Place] = {}
        for code, name, topic_id, _, partitions, *_ in answer.topics:
            if code in GONE or code == INVALID_TOPIC:
                self._places.pop(name, None)
                continue
            if code and code not in TRANSIENT:
                raise refused(code, f"to describe the topic {name}")
            leaders = {number: leader for _, number, leader, *_ in partitions}
            found[name] = Place(name, topic_id, leaders, min((len(p[4]) for p in partitions), default=1))
            self._places[name] = found[name]
        return found

    async def place(self, name: str, deadline: Deadline) -> Place | None:
        """The topic as last heard of; asks only if it was never heard of."""
        return self._places.get(name) or (await self.describe([name], deadline)).get(name)

    def known(self, name: str) -> Place | None:
        """The topic as last heard of."""
        return self._places.get(name)

    def forget(self, name: str) -> None:
        """What is known of the topic is out of date."""
        self._places.pop(name, None)

    async def leader(self, name: str, partition: int, deadline: Deadline) -> int | None:
        """The node that leads the partition; None if there is none now (what was known is forgotten then)."""
        place = await self.place(name, deadline)
        node = -1 if place is None else place.leaders.get(partition, -1)
        if node < 0 or node not in self._brokers:
            self.forget(name)
            return None
        return node

    @staticmethod
    async def until_done(call: Callable[[], Any], deadline: Deadline) -> Any:
        """Repeats a call that may be repeated until it is answered; raises what it raised last once time is over."""
        for pause in BACKOFF:
            try:
                return await call()
            except LogUnavailable:
                if deadline.remaining <= pause:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("a backoff never ends")
