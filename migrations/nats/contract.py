"""What a mover promises: it plans without changing anything, applies again without doubling anything, verifies without
the journal, and takes back only what the journal says that it made.

A mover moves one kind of thing (object buckets, KV buckets, streams, router snapshots, model folders).  An `Item` is
one such thing with what it becomes; within it are names (objects, keys, messages), and what goes wrong with one name is
collected as a `Refusal` while the rest goes on.  Only what stands in the way of everything is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue

from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.timing import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from dynlog.adapters.nats.access import NatsServer
    from dynlog.migrations.nats.journal import Journal
    from dynlog.migrations.nats.survey import Survey

MADE_BY = "dynlog-migration"
"""Label of every topic and bucket, and metadata name of every object, that a migration makes: the migration's name."""


class Refusal(BaseModel):
    """One name (object, key, message, stream) that is not moved, and why; whoever reads it knows what to do."""

    model_config = ConfigDict(frozen=True)

    name: str
    why: str


class Item(BaseModel):
    """One thing of the source and what it becomes; ``count`` and ``bytes`` are what the plan saw.

    ``last_seq`` is the source stream's last sequence when it was planned, ``created`` the stream's own creation time:
    a stream that was made anew under the same name is another item.  An item whose ``target`` is empty is listed and
    not moved; its notes say why.  ``settings`` is the mover's own and is kept in the journal.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    source: str
    target: str
    count: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    created: str = ""
    notes: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    settings: dict[str, JsonValue] = {}

    @property
    def id(self) -> str:
        """Names the item within a migration, as in ``objects:weights``."""
        return f"{self.kind}:{self.source}"


class Moved(BaseModel):
    """One journal line: what of an item is durably in its target.

    ``name`` is the mover's (an object's name, a key, ``1-5000`` for a stretch of messages); ``source_seq`` is the
    sequence up to which the source has been read for it.  The newest line of a name counts.
    """

    model_config = ConfigDict(frozen=True)

    item: str
    name: str
    source_seq: int
    target: str
    size: int
    checksum: str
    detail: dict[str, JsonValue] = {}


class Difference(BaseModel):
    """One name whose target is not what the source says."""

    model_config = ConfigDict(frozen=True)

    name: str
    what: str


class Outcome(BaseModel):
    """What applying (or rolling back) an item did; ``already`` were there from an earlier run."""

    model_config = ConfigDict(frozen=True)

    item: str
    moved: int = 0
    already: int = 0
    bytes: int = 0
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator may choose; every mover reads what concerns it."""

    model_root: str | None = None
    """Where the fleet will find model folders: references to NATS in model cards then name files below it."""
    topic: str | None = None
    """The router's event topic; None is the name of the stream that Dynamo had for it."""
    partition_by: str | None = None
    """How a stream's subjects are spread over partitions; None is one partition."""
    partitions: int = 1


@dataclass(slots=True)
class Limits:
    """Bounds on what an apply takes from the source and the target; ``bytes_per_s`` is over everything at once."""

    concurrency: int = 4
    bytes_per_s: float | None = None
    clock: Clock = SYSTEM_CLOCK
    _free_at: float = field(default=0.0, init=False)

    async def pay(self, size: int) -> None:
        """Waits until ``size`` more bytes are within the rate."""
        if self.bytes_per_s is None:
            return
        now = self.clock.monotonic()
        self._free_at = max(self._free_at, now) + size / self.bytes_per_s
        await asyncio.sleep(max(0.0, self._free_at - size / self.bytes_per_s - now))


Progress = Callable[[Item, int, int], None]
"""Called with (item, names done, bytes done) since this run began; must not block."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a mover works with while a plan is applied, verified or rolled back."""

    migration: str
    source: NatsServer | None
    log: Log
    objects: ObjectStore
    journal: Journal
    limits: Limits
    choices: Choices
    progress: Progress

    @property
    def server(self) -> NatsServer:
        """The source; a rollback may be without one and raises ConfigurationError here."""
        if self.source is None:
            raise ConfigurationError("this needs the source: name it with --nats")
        return self.source

    async def moved(self, line: Moved) -> None:
        """Writes the line into the journal, durably: call it once what it says is durable in the target."""
        await self.journal.moved(line)

    async def making(self, item: Item, what: str, name: str) -> None:
        """Says in the journal that a topic, bucket or object (``what``) of that name is about to be made.

        Call it before: a rollback then finds it although the process died in between.  The thing itself carries
        `MADE_BY` with the migration's name, so that nobody else's is ever removed.
        """
        await self.journal.making(item.id, what, name)


class Mover(Protocol):
    """Moves one kind of thing."""

    kind: str

    async def plan(self, survey: Survey) -> list[Item]:
        """What there is of its kind and what becomes of it; changes nothing, anywhere."""

    async def apply(self, item: Item, run: Run) -> Outcome:
        """Moves what is not there yet; killed anywhere and called again it goes on, and doubles nothing.

        What goes wrong with one name is in the outcome; raises what stands in the way of the item as a whole.
        """

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        """Reads source and target again, and not the journal, and says what differs."""

    async def rollback(self, item: Item, run: Run) -> Outcome:
        """Removes what this migration made for the item, and nothing that others made or changed since."""
