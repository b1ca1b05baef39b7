"""What a producer gives for a record: a ticket, whose outcome is where the record lies or why it is not known to."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import NamedTuple

from dynlog.errors import DynlogError


class Stored(NamedTuple):
    """Where a record lies; the offset is UNKNOWN_OFFSET for a repeat whose first append is no longer remembered."""

    partition: int
    offset: int


class Ticket:
    """The promise for one record: awaiting it gives `Stored` or raises what went wrong; cancelling undoes nothing."""

    __slots__ = ("_future", "observed")

    def __init__(self) -> None:
        self._future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.observed = False

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._future.done()

    def __await__(self) -> Generator[None, None, Stored]:
        self.observed = True
        return asyncio.shield(self._future).__await__()

    async def settled(self) -> None:
        """Waits until the outcome is known, whatever it is."""
        await asyncio.wait([self._future])

    def resolve(self, stored: Stored) -> None:
        """For the producer: the record is durable."""
        self._future.set_result(stored)

    def fail(self, error: DynlogError) -> None:
        """For the producer: the record is not known to be durable."""
        self._future.set_exception(error)
        self._future.exception()  # an outcome that nobody awaited is reported by flush(), not by the event loop
