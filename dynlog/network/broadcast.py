"""One request to every instance of a collection: each that was there at one offset answers once or is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, DeadlineExceeded, DynlogError
from dynlog.network.hierarchy import Member
from dynlog.network.registry import Registry
from dynlog.record import Buffer
from dynlog.timing import Deadline

AT_ONCE = 256
"""How many members are asked at the same time."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a broadcast brought."""

    view_offset: int
    """Of the registry: exactly the instances that were there at it were asked."""
    replies: dict[DynamoEntityID, Buffer] = field(default_factory=dict)
    missing: dict[DynamoEntityID, DynlogError] = field(default_factory=dict)
    """Why there is no reply of the others."""


async def broadcast(
    registry: Registry,
    collection: DynamoEntityID,
    deadline: Deadline,
    ask: Callable[[Member, float], Awaitable[Buffer]],
) -> Gathered:
    """Asks every instance of the collection once; whoever is gone, fails or is late is in ``missing``.

    ``ask`` is given what is left of the time, the same end for all, and keeps to it.  Raises ConfigurationError for an
    instance, and what the registry raises if it cannot say who is there.
    """
    if not collection.is_collection:
        raise ConfigurationError(f"{collection} is an instance: a broadcast goes to a collection")
    await registry.refresh(deadline.remaining)
    # Nothing awaits anything between these: offset and members are of the same moment.
    gathered = Gathered(registry.view.offset)
    members = registry.view.instances(collection)
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(member: Member) -> None:
        async with turn:
            try:
                if deadline.passed:
                    raise DeadlineExceeded(f"{member.entity} was not asked: {AT_ONCE} others took all of the time")
                gathered.replies[member.entity] = await ask(member, deadline.remaining)
            except DynlogError as error:
                gathered.missing[member.entity] = error

    async with asyncio.TaskGroup() as asking:
        for member in members:
            asking.create_task(one(member))
    return gathered
