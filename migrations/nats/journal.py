"""The journal of a migration: lines in topic ``dynlog.migration`` whose fold says where to go on and what to take back.

* **A line says only what is durable in the target already** (or, for things that are made, what is about to be, and is
  durable before they are).
* **Lines of two applies never mix**: opening it for writing fences whoever wrote before.

A record's key is the migration's name and its body one line as JSON, so that ``dynlog log read`` shows it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dynlog.dedupe import DedupeTable
from dynlog.errors import ConfigurationError, TopicNotFound
from dynlog.log import Log
from dynlog.migrations.nats.contract import Item, Moved, Outcome
from dynlog.producer import Producer
from dynlog.record import Record
from dynlog.tickets import Ticket
from dynlog.timing import SYSTEM_CLOCK, Clock

TOPIC = "dynlog.migration"


class Stage(StrEnum):
    """How far an item is."""

    BEGUN = "begun"
    DONE = "done"
    PARTIAL = "partial"
    TAKEN_BACK = "taken back"


class Begun(BaseModel):
    """An apply begins (or goes on) with the item."""

    model_config = ConfigDict(frozen=True)
    line: Literal["begun"] = "begun"
    item: Item
    source: str


class Making(BaseModel):
    """A topic, bucket or object is about to be made; ``what`` says which."""

    model_config = ConfigDict(frozen=True)
    line: Literal["making"] = "making"
    item: str
    what: str
    name: str


class MovedLine(BaseModel):
    """Something is durably in its target."""

    model_config = ConfigDict(frozen=True)
    line: Literal["moved"] = "moved"
    moved: Moved


class Ended(BaseModel):
    """An apply came to the end of the item."""

    model_config = ConfigDict(frozen=True)
    line: Literal["ended"] = "ended"
    outcome: Outcome


class TakenBack(BaseModel):
    """A rollback removed what was made for the item; all earlier lines of it no longer count."""

    model_config = ConfigDict(frozen=True)
    line: Literal["taken-back"] = "taken-back"
    outcome: Outcome


Line = Annotated[Begun | Making | MovedLine | Ended | TakenBack, Field(discriminator="line")]
_LINES: TypeAdapter[Line] = TypeAdapter(Line)


@dataclass(slots=True)
class ItemState:
    """What the journal knows of an item; times are milliseconds since the epoch, by the writer's clock."""

    item: Item
    source: str
    stage: Stage
    began_ms: int
    ended_ms: int | None = None
    outcome: Outcome | None = None
    moved: dict[str, Moved] = field(default_factory=dict)
    made: dict[tuple[str, str], Making] = field(default_factory=dict)


class Journal:
    """One migration's journal; get it by `read` (to look) or `write` (which fences earlier writers)."""

    def __init__(self, log: Log, migration: str, producer: Producer | None, clock: Clock) -> None:
        self.migration = migration
        self._log, self._producer, self._clock = log, producer, clock
        self._items: dict[str, ItemState] = {}
        self.unreadable = 0

    @classmethod
    async def read(cls, log: Log, migration: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """What the journal says now; of a migration that never began it is empty.  Raises what `Log.read` raises."""
        journal = cls(log, migration, None, clock)
        await journal._fold()
        return journal

    @classmethod
    @asynccontextmanager
    async def write(cls, log: Log, migration: str, *, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Self]:
        """The journal, to go on with; raises what `Log.read` and `Log.append` raise."""
        await log.create_topic(TOPIC, exist_ok=True)
        async with AsyncExitStack() as stack:
            producer = Producer(log, TOPIC, producer_id=f"dynlog.migration:{migration}")
            journal = cls(log, migration, await stack.enter_async_context(producer), clock)
            await journal._fold()  # after the fence: nobody adds a line of this migration behind what is read here
            yield journal

    @property
    def items(self) -> Mapping[str, ItemState]:
        """Every item that an apply began with, by id, in the order in which they were first begun."""
        return self._items

    def lines(self, item: str) -> Mapping[str, Moved]:
        """What of the item is in its target, by name."""
        state = self._items.get(item)
        return state.moved if state is not None else {}

    def last_seq(self, item: str) -> int:
        """The highest source sequence of the item's lines; 0 if there are none."""
        return max((line.source_seq for line in self.lines(item).values()), default=0)

    def made(self, item: str, what: str | None = None) -> list[str]:
        """Names of what was (perhaps) made for the item, of one sort or all, in order."""
        state = self._items.get(item)
        return [making.name for making in state.made.values() if what in (None, making.what)] if state else []

    async def begin(self, item: Item, source: str) -> None:
        """An apply begins with the item, or goes on."""
        await self._say(Begun(item=item, source=source))

    async def making(self, item: str, what: str, name: str) -> None:
        """See `Run.making`; what stands there already is not written again."""
        state = self._items.get(item)
        if state is None or (what, name) not in state.made:
            await self._say(Making(item=item, what=what, name=name))

    async def moved(self, line: Moved) -> None:
        """See `Run.moved`."""
        await self._say(MovedLine(moved=line))

    async def moved_soon(self, line: Moved) -> None:
        """As `moved`, but returns before the line is durable; `flush` says whether all are.

        For what a next run finds in the target without the line.
        """
        await self._submit(MovedLine(moved=line))

    async def flush(self) -> None:
        """Returns once all lines are durable; raises what appending one of them raised."""
        if self._producer is not None:
            await self._producer.flush()

    async def end(self, outcome: Outcome) -> None:
        """An apply came to the item's end."""
        await self._say(Ended(outcome=outcome))

    async def taken_back(self, outcome: Outcome) -> None:
        """A rollback came to the item's end."""
        await self._say(TakenBack(outcome=outcome))

    async def _say(self, line: Line) -> None:
        await (await self._submit(line))

    async def _submit(self, line: Line) -> Ticket:
        if self._producer is None:
            raise ConfigurationError("this journal was opened to be read")
        now = self._clock.time_ms()
        body = line.model_dump_json(exclude_defaults=False).encode()
        record = Record(key=self.migration.encode(), parts=(body,), timestamp_ms=now)
        ticket = await self._producer.submit(record, partition=0)
        self._apply(line, now)
        return ticket

    async def _fold(self) -> None:
        try:
            position = await self._log.position(TOPIC, 0)
        except TopicNotFound:
            return
        table = None if self._log.capabilities.checks_marks else DedupeTable()
        key = self.migration.encode()
        while True:
            batch = await self._log.read(position)
            for stored in batch if table is None else table.filter(batch):
                if stored.record.key == key:
                    self._take(b"".join(map(bytes, stored.record.parts)), stored.record.timestamp_ms)
            position = batch.next_position
            if batch.next_offset >= batch.end_offset:
                return

    def _take(self, body: bytes, time_ms: int) -> None:
        try:
            line = _LINES.validate_json(body)
        except ValidationError:  # a newer release's line: what it says is not lost, only not understood
            self.unreadable += 1
            return
        self._apply(line, time_ms)

    def _apply(self, line: Line, now: int) -> None:
        match line:
            case Begun(item=item, source=source):
                known = self._items.get(item.id)
                if known is None or known.stage is Stage.TAKEN_BACK:
                    self._items[item.id] = ItemState(item, source, Stage.BEGUN, now)
                else:
                    known.item, known.stage = item, Stage.BEGUN
            case Making(item=id) if id in self._items:
                self._items[id].made[line.what, line.name] = line
            case MovedLine(moved=moved) if moved.item in self._items:
                self._items[moved.item].moved[moved.name] = moved
            case Ended(outcome=outcome) if outcome.item in self._items:
                state = self._items[outcome.item]
                state.stage = Stage.PARTIAL if outcome.refused else Stage.DONE
                state.outcome, state.ended_ms = outcome, now
            case TakenBack(outcome=outcome) if outcome.item in self._items:
                state = self._items[outcome.item]
                state.outcome, state.ended_ms = outcome, now
                state.stage = Stage.PARTIAL if outcome.refused else Stage.TAKEN_BACK
                if not outcome.refused:
                    state.moved.clear()
                    state.made.clear()
            case _:
                self.unreadable += 1
