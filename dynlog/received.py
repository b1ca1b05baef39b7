"""A delivery: one record in the hands of a consumer's user, until it is acknowledged or given back.

`Delivery.ack` says that the record is done, `Delivery.nack` that it is to come again; what is neither comes again when
its consumer is gone.  After the partition went to another member both raise CommitFenced: that one handles it now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

from dynlog.batch import StoredRecord
from dynlog.effects import Effect, check_effect
from dynlog.errors import CommitFenced, ConfigurationError
from dynlog.record import Record


class DeliveryState(Enum):
    """What a delivery has come to."""

    WAITING = "waiting"  # behind another record of its key, or for its next attempt
    HANDED = "handed"  # in the user's hands
    RETURNED = "returned"  # rejected: its next attempt is a delivery of its own
    DONE = "done"  # acknowledged or parked
    LOST = "lost"  # its partition is another member's


class Settler(Protocol):
    """Who is told what became of a delivery."""

    async def acknowledge(self, delivery: Delivery) -> None:
        """It is done."""

    async def reject(self, delivery: Delivery, delay: float | None, error: BaseException | None) -> None:
        """It failed."""


class Delivery:
    """A record and where it lies; ``attempt`` counts from 1 within this consumer."""

    __slots__ = (
        "_scope", "_settler", "_settling", "attempt", "effects", "first_failed_ms", "incarnation", "log_time_ms",
        "offset", "order", "partition", "record", "size", "state", "topic",
    )  # fmt: skip

    def __init__(
        self, topic: str, incarnation: str, stored: StoredRecord, order: object, size: int, settler: Settler
    ) -> None:
        self.topic, self.incarnation = topic, incarnation
        self.partition, self.offset, self.log_time_ms, self.record = stored
        self.order, self.size = order, size
        self.attempt = 1
        self.first_failed_ms = 0
        self.effects: list[Effect] = []
        self.state = DeliveryState.WAITING
        self._settler = settler
        self._scope: asyncio.Timeout | None = None
        self._settling = False

    @property
    def id(self) -> str:
        """The same for every delivery of this record, to whomever and however often: for outside effects."""
        return f"{self.topic}/{self.incarnation}/{self.partition}/{self.offset}"

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to say about it, or it is being said."""
        return self._settling or self.state is not DeliveryState.HANDED

    def emit(self, topic: str, record: Record, *, partition: int | None = None) -> None:
        """Adds an effect: a record that `ack` appends.  An attempt that fails leaves none.  Under
        `Guarantee.EXACTLY_ONCE` it is in the log once, however often this delivery is handled; under the others it may
        be there once per handling.  Raises ConfigurationError for a record with a mark."""
        self.effects.append(Effect(topic, check_effect(record), partition))

    async def ack(self) -> None:
        """The record is done: its effects are appended, and the next commit may pass it.

        Raises CommitFenced if the partition is another member's by now, what `Log.append` raises for the effects.
        """
        with self._settlement():
            await self._settler.acknowledge(self)

    async def nack(self, *, delay: float | None = None, error: BaseException | None = None) -> None:
        """The record failed: it comes again after ``delay`` seconds, or as the retry policy says, before any other of
        its key; after the policy's last attempt it is parked as a dead letter that tells ``error``."""
        with self._settlement():
            self.effects.clear()
            await self._settler.reject(self, delay, error)

    def another(self) -> Delivery:
        """The next attempt.  Whoever had this one in hands may not settle that one as well."""
        stored = StoredRecord(self.partition, self.offset, self.log_time_ms, self.record)
        other = Delivery(self.topic, self.incarnation, stored, self.order, self.size, self._settler)
        other.attempt, other.first_failed_ms = self.attempt + 1, self.first_failed_ms
        self.state = DeliveryState.RETURNED
        return other

    @contextmanager
    def cancelling(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Lets the loss of the delivery end the block, which stands under that timeout."""
        self._scope = scope
        try:
            yield
        finally:
            self._scope = None  # a timeout that is over cannot be moved

    def lose(self) -> None:
        """It is another member's now; whoever handles it is stopped."""
        self.state = DeliveryState.LOST
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def _settlement(self) -> Iterator[None]:
        self._check()
        self._settling = True
        try:
            yield
        finally:
            self._settling = False

    def _check(self) -> None:
        if self.state is DeliveryState.LOST:
            raise CommitFenced(
                "the partition was given to another member, or the group was sought, while this record was handled: "
                "it is delivered again, elsewhere or here",
                topic=self.topic, partition=self.partition, offset=self.offset,
            )  # fmt: skip
        if self.settled:
            raise ConfigurationError(f"delivery {self.id} was settled before: acknowledge or reject each one once")

    def __repr__(self) -> str:
        return f"<Delivery {self.id} attempt {self.attempt} {self.state.value}>"
