"""Brings one component's router state into a topic: the snapshot's events, a dynlog snapshot of them, then the tail.

* **The topic alone gives the state**, and the dynlog snapshot only makes a rebuild fast.
* **A source that was purged past the place where the migration stands is loaded anew**: the workers that the topic
  holds are said to be gone first, so nothing of the older state is left over.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from pydantic import JsonValue

from dynlog.adapters.nats.streams import StreamInfo, StreamMessage, read_stream
from dynlog.errors import MalformedEvent, SourceChanged
from dynlog.migrations.nats.contract import Item, Moved, Outcome, Refusal, Run
from dynlog.migrations.nats.readers import own_holder
from dynlog.migrations.nats.router_events import (
    Appender,
    message_record,
    producer_of,
    removal_records,
    snapshot_records,
)
from dynlog.migrations.nats.router_source import Loaded, RouterSource, load
from dynlog.replay import DEDUPE_SECTION, STATE_SECTION, Rebuilt, Replayer, release_quietly
from dynlog.router.projection import RouterProjection
from dynlog.router.state import PROJECTION
from dynlog.snapshots import Snapshots

ROUNDS = 5
"""So often a stream that goes on is read on, and a source that was purged is loaded anew."""
JOURNAL_EVERY = 1000
MOST_NAMED = 1000
ATTEMPT, SNAPSHOT, TAIL = "attempt", "snapshot", "tail"
"""Names of the item's journal lines."""


class _Purged(Exception):
    """Messages that were still to be read are gone: a newer snapshot has what they said."""


@dataclass(slots=True)
class RouterLoad:
    """One apply of one component."""

    item: Item
    run: Run
    partitions: int
    moved: int = 0
    already: int = 0
    bytes: int = 0
    refused: list[Refusal] = field(default_factory=list)
    _tail_events: int = 0
    """In the topic, from the tail, of this attempt."""

    async def bring(self) -> Outcome:
        """Everything up to the stream's end; raises what reading the source or appending raises."""
        source = RouterSource.of(self.item)
        for _ in range(ROUNDS):
            try:
                await self._bring(source)
                return self.outcome
            except _Purged:
                continue
        raise SourceChanged(f"stream {source.stream!r} was purged {ROUNDS} times while it was being read: apply again")

    @property
    def outcome(self) -> Outcome:
        """What was done so far."""
        return Outcome(
            item=self.item.id, moved=self.moved, already=self.already, bytes=self.bytes, refused=tuple(self.refused)
        )

    async def _bring(self, source: RouterSource) -> None:
        info = await source.info(self.run.server)
        if info is not None and self.item.created and info.created != self.item.created:
            raise SourceChanged(f"stream {source.stream!r} was deleted and made anew since the plan: plan again")
        at = self._stands_at()
        if at is None or (info is not None and info.first_seq > at + 1):
            at = await self._load(source, info)
        else:
            self.already += self._counted(SNAPSHOT) + self._counted(TAIL)
        for _ in range(ROUNDS):
            if info is None or info.last_seq <= at:
                return
            at = await self._read_tail(source, info, at)
            info = await source.info(self.run.server)

    @property
    def _lines(self) -> dict[str, Moved]:
        return dict(self.run.journal.lines(self.item.id))

    def _counted(self, name: str) -> int:
        """The events that the journal's line counts; those of an earlier attempt are no longer there."""
        line, snapshot = self._lines.get(name), self._lines[SNAPSHOT]
        if line is None or line.detail.get(ATTEMPT) != snapshot.detail.get(ATTEMPT):
            return 0
        events = line.detail.get("events")
        return events if isinstance(events, int) else 0

    def _stands_at(self) -> int | None:
        """The sequence up to which the stream is in the topic; None if the snapshot is not there yet."""
        lines = self._lines
        if SNAPSHOT not in lines:
            return None
        begins = lines[SNAPSHOT].source_seq
        tail = lines.get(TAIL)
        return begins if tail is None or tail.detail.get(ATTEMPT) != lines[SNAPSHOT].detail.get(ATTEMPT) else max(
            begins, tail.source_seq
        )  # fmt: skip

    # The snapshot

    async def _load(self, source: RouterSource, info: StreamInfo | None) -> int:
        """Brings the snapshot in; returns the sequence behind which the tail begins."""
        loaded = await load(source, self.run.server)
        events = loaded.events() if loaded is not None else ()
        attempt, workers = await self._begin_attempt(loaded)
        begins = info.first_seq - 1 if info is not None else 0
        appender = Appender(self.run.log, self.item.target, self.partitions)
        producer = f"{producer_of(source.stream, self.item.created)}:{attempt}"
        for record in removal_records(workers, producer):
            await appender.add(record)
        for record in snapshot_records(events, producer):
            size = sum(map(len, record.parts))
            await self.run.limits.pay(size)
            await appender.add(record)
            self.bytes += size
            self._tell()
        await appender.flush()
        self.moved += len(events)
        written: dict[str, JsonValue] = {}
        if loaded is not None:
            written = await self._write_snapshot()
        detail: dict[str, JsonValue] = {ATTEMPT: attempt, "events": len(events), **written}
        if loaded is not None:
            detail |= {"nuid": loaded.object.nuid, "profiles": list(loaded.profiles)}
        body, digest = (loaded.body, loaded.object.digest) if loaded is not None else (b"", "")
        await self.run.moved(
            Moved(
                item=self.item.id, name=SNAPSHOT, source_seq=begins, target=self.item.target, size=len(body),
                checksum=digest, detail=detail,
            )
        )  # fmt: skip
        self._tell()
        return begins

    async def _begin_attempt(self, loaded: Loaded | None) -> tuple[int, list[int]]:
        """The attempt's number, and the workers that are to go first; what was begun of the same snapshot goes on."""
        lines, nuid = self._lines, loaded.object.nuid if loaded is not None else ""
        last = lines.get(ATTEMPT)
        number = last.source_seq if last is not None else 0
        done = SNAPSHOT in lines and lines[SNAPSHOT].detail.get(ATTEMPT) == number
        if last is not None and not done and last.detail.get("nuid") == nuid:
            said = last.detail.get("workers")
            return number, [int(str(worker)) for worker in said] if isinstance(said, list) else []
        workers = sorted({worker for worker, _ in (await self._state()).index.workers()}) if number else []
        detail: dict[str, JsonValue] = {"nuid": nuid, "workers": [str(worker) for worker in workers]}
        await self.run.moved(
            Moved(
                item=self.item.id, name=ATTEMPT, source_seq=number + 1, target=self.item.target, size=0, checksum="",
                detail=detail,
            )
        )  # fmt: skip
        return number + 1, workers

    async def _state(self) -> RouterProjection:
        return (await self._rebuilt()).state

    async def _rebuilt(self) -> Rebuilt[RouterProjection]:
        replayer = Replayer(self.run.log, self.item.target, RouterProjection, holder=own_holder())
        try:
            rebuilt = await replayer.rebuild()
            await rebuilt.reader.close()
            return rebuilt
        finally:
            await release_quietly(self.run.log, self.item.target, replayer.holder)

    async def _write_snapshot(self) -> dict[str, JsonValue]:
        rebuilt = await self._rebuilt()
        sections = {STATE_SECTION: rebuilt.state.snapshot()}
        if rebuilt.dedupe is not None:
            sections[DEDUPE_SECTION] = rebuilt.dedupe.snapshot()
        snapshots = Snapshots(self.run.log, self.item.target, self.run.objects, PROJECTION)
        manifest = await snapshots.write(sections, rebuilt.state.schema, rebuilt.reader.positions)
        return {"snapshot": manifest.id, "key": manifest.key, "sha256": manifest.sha256}

    # The tail

    async def _read_tail(self, source: RouterSource, info: StreamInfo, at: int) -> int:
        """Brings in what lies behind ``at``, up to the end that ``info`` says."""
        appender = Appender(self.run.log, self.item.target, self.partitions)
        attempt = self._lines[SNAPSHOT].detail[ATTEMPT]
        # Under the same marks a message that an earlier attempt appended would be taken for a repeat, and what its
        # workers were said to have lost since would stay lost.
        producer = f"{producer_of(source.stream, info.created)}:{attempt}:tail"
        since, first = 0, at + 1
        self._tail_events = self._counted(TAIL)
        messages = read_stream(self.run.server, info, first=at + 1, last=info.last_seq)
        async with aclosing(messages):
            async for message in messages:
                if message.sequence > at + 1:
                    await self._check_not_purged(source, at)
                await self._take(message, appender, producer, source)
                at, since = message.sequence, since + 1
                if since >= JOURNAL_EVERY:
                    await appender.flush()
                    await self._stood(at, attempt)
                    since = 0
        if at < info.last_seq:
            await self._check_not_purged(source, at)
        await appender.flush()
        if first <= info.last_seq:
            await self._stood(info.last_seq, attempt)
        return info.last_seq

    async def _take(self, message: StreamMessage, appender: Appender, producer: str, source: RouterSource) -> None:
        await self.run.limits.pay(len(message.data))
        try:
            record = message_record(message, producer)
        except MalformedEvent as error:
            if len(self.refused) < MOST_NAMED:
                self.refused.append(Refusal(name=f"{source.stream} sequence {message.sequence}", why=str(error)))
            return
        await appender.add(record)
        self._tail_events += 1
        self.moved += 1
        self.bytes += len(message.data)
        self._tell()

    async def _check_not_purged(self, source: RouterSource, at: int) -> None:
        info = await source.info(self.run.server)
        if info is not None and info.first_seq > at + 1:
            raise _Purged

    async def _stood(self, at: int, attempt: JsonValue) -> None:
        await self.run.moved(
            Moved(
                item=self.item.id, name=TAIL, source_seq=at, target=self.item.target, size=0, checksum="",
                detail={ATTEMPT: attempt, "events": self._tail_events},
            )
        )  # fmt: skip

    def _tell(self) -> None:
        self.run.progress(self.item, self.moved, self.bytes)
