"""Who needs a topic, and what may therefore go: holders, truncation, retention, groups.

Truncation is an entry in the log's own topic, so it and every holder have an order: a holder that was registered before
stops it, one that comes after and lies below is refused.  What the entry decided is then carried out (DeleteRecords);
whoever dies in between leaves a start in Kafka that is lower than the log's, and the next truncation moves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dynlog.errors import ConfigurationError, DynlogError
from dynlog.storage.kafka import admin
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.fold import group_state
from dynlog.storage.kafka.meta import Meta
from dynlog.storage.kafka.mirror import Mirror
from dynlog.storage.kafka.reads import Reads
from dynlog.storage.kafka.state import pack_holder
from dynlog.storage.kafka.topics import Found, Topics
from dynlog.storage.ledger import beyond_end, check_holder, check_partition, retention_cuts, truncated, why_expired
from dynlog.timing import SYSTEM_CLOCK, Clock, Deadline
from dynlog.topics import GroupState, Holder, HolderState, LogEvent, PartitionState, Retention, Truncation, check_name

RETENTION_EVERY_MS = 5_000
_RETENTION_S = 30.0
_PROBES_AT_ONCE = 8

Bounds = Mapping[int, tuple[int, int]]


class Care:
    """Holders, groups and truncation of one log handle; owns the tasks that enforce retention by themselves."""

    def __init__(
        self, cluster: Cluster, topics: Topics, meta: Meta, reads: Reads, mirror: Mirror, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._meta = meta
        self._reads = reads
        self._mirror = mirror
        self._clock = clock
        self._enforced_ms: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def bounds(self, found: Found, deadline: Deadline) -> dict[int, tuple[int, int]]:
        """(start, end) of every partition: the start is Kafka's, or where a truncation has put it already."""
        bounds = await admin.bounds(self._cluster, found.kafka, range(found.info.partitions), deadline)
        starts = found.state.starts if found.state is not None else {}
        return {number: (min(max(low, starts.get(number, 0)), end), end) for number, (low, end) in bounds.items()}

    async def partitions(self, found: Found, deadline: Deadline) -> list[PartitionState]:
        """See `Log.partitions`; bytes of what this handle did not see itself are estimated."""
        bounds = await self.bounds(found, deadline)
        gate = asyncio.Semaphore(_PROBES_AT_ONCE)

        async def look(number: int, start: int, end: int) -> None:
            last = self._reads.sizes[found.id, number].last
            if start < end and (last is None or last.next < end):
                async with gate:
                    await self._reads.probe(found, number, end - 1, deadline)

        await asyncio.gather(*(look(number, *bound) for number, bound in bounds.items()))
        states = []
        for number, (start, end) in bounds.items():
            sizes = self._reads.sizes[found.id, number]
            sizes.truncate(start)
            segments = sizes.segments(start, end)
            time = sizes.last.log_time_ms if sizes.last is not None else 0
            states.append(PartitionState(number, start, end, sum(s.size for s in segments), len(segments), time))
        return states

    # Holders

    async def hold(self, name: str, holder: Holder, deadline: Deadline, incarnation: str | None = None) -> None:
        """See `Log.hold`; the entry names the incarnation, so log order decides."""
        check_holder(holder)
        async with self._topics.meaning(name, deadline, incarnation):
            await self._hold(name, holder, deadline, incarnation)

    async def _hold(self, name: str, holder: Holder, deadline: Deadline, incarnation: str | None) -> None:
        found = await self._topics.owned(name, deadline, incarnation)
        for number in holder.positions:
            check_partition(name, found.info.partitions, number)
        if holder.positions:
            bounds = await admin.bounds(self._cluster, found.kafka, holder.positions, deadline)
            for number, offset in holder.positions.items():
                if offset < bounds[number][0]:
                    raise truncated(name, number, offset, bounds[number][0])
                if offset > bounds[number][1]:
                    raise beyond_end(name, number, offset, bounds[number][1])
        now_ms = self._clock.time_ms()
        await self._meta.change(deadline, "hold", name, found.info.incarnation, pack_holder(holder), now_ms)

    async def release(self, name: str, holder: str, deadline: Deadline) -> None:
        """See `Log.release`."""
        state = await self._meta.sync(deadline)
        if name in state.topics and holder in state.topics[name].holders:
            await self._meta.change(deadline, "release", name, holder)

    async def holders(self, name: str, deadline: Deadline) -> list[HolderState]:
        """See `Log.holders`."""
        found = await self._topics.find(name, deadline)
        if found.state is None or not found.state.holders:
            return []
        bounds, now_ms = await self.bounds(found, deadline), self._clock.time_ms()
        gone = {entry[0] for entry in self._expired(found, bounds, now_ms)}
        return [
            HolderState(
                held.holder,
                held.last_seen_ms,
                sum(max(bounds[number][1] - offset, 0) for number, offset in held.holder.positions.items()),
                holder in gone,
            )
            for holder, held in sorted(found.state.holders.items())
        ]

    def _expired(self, found: Found, bounds: Bounds, now_ms: int) -> list[list[Any]]:
        """Holders that no longer count: name, version, why."""
        expired: list[list[Any]] = []
        for name, held in found.state.holders.items() if found.state is not None else ():
            lag = sum(
                self._reads.sizes[found.id, number].between(max(offset, bounds[number][0]), bounds[number][1])
                for number, offset in held.holder.positions.items()
            )
            why = why_expired(held.holder, held.last_seen_ms, now_ms, lag)
            if why is not None:
                expired.append([name, held.version, why])
        return expired

    # Truncation

    async def truncate(
        self,
        name: str,
        number: int,
        before: int,
        force: bool,
        deadline: Deadline,
        incarnation: str | None = None,
    ) -> Truncation:
        """See `Log.truncate`.

        The entry names the incarnation, so log order decides; but Kafka knows no deletion of records by topic id, so
        a successor that is made in the milliseconds between the last look and that order loses the same offsets.
        """
        async with self._topics.meaning(name, deadline, incarnation):
            return await self._truncate(name, number, before, force, deadline, incarnation)

    async def _truncate(
        self, name: str, number: int, before: int, force: bool, deadline: Deadline, incarnation: str | None
    ) -> Truncation:
        found = await self._topics.find(name, deadline, incarnation)
        check_partition(name, found.info.partitions, number)
        bounds = await self.bounds(found, deadline)
        start, end = bounds[number]
        if before > end:
            raise beyond_end(name, number, before, end)
        if before <= start:
            return Truncation(number, start, before)
        found = await self._topics.owned(name, deadline, incarnation)
        return (await self._trim(found, bounds, {number: before}, force, deadline, incarnation))[0]

    async def _trim(
        self,
        found: Found,
        bounds: Bounds,
        cuts: Mapping[int, int],
        force: bool,
        deadline: Deadline,
        incarnation: str | None = None,
    ) -> list[Truncation]:
        now_ms = self._clock.time_ms()
        expired = self._expired(found, bounds, now_ms)
        if not cuts and not expired:
            return []
        wanted = {number: [bounds[number][0], before] for number, before in cuts.items()}
        done: list[Truncation] = await self._meta.change(
            deadline, "trim", found.info.name, found.info.incarnation, wanted, expired, force, now_ms
        )
        moved = {each.partition: each.earliest for each in done if each.earliest > 0}
        if moved:
            if incarnation is not None:
                await self._topics.find(found.info.name, deadline, incarnation)
            await admin.delete_records(self._cluster, found.kafka, moved, deadline)
        return done

    async def enforce_retention(self, name: str, deadline: Deadline) -> list[Truncation]:
        """See `Log.enforce_retention`; age counts on this machine's clock against the broker's."""
        found = await self._topics.find(name, deadline)
        if found.state is None:
            return []
        self._enforced_ms[name] = self._clock.time_ms()
        bounds, kept = await self.bounds(found, deadline), found.info.retention
        cuts: dict[int, int] = {}
        if kept.max_bytes is not None:
            segments = {
                number: self._reads.sizes[found.id, number].segments(*bound) for number, bound in bounds.items()
            }
            total = sum(segment.size for listed in segments.values() for segment in listed)
            by_size = Retention(max_bytes=kept.max_bytes)
            cuts = retention_cuts(segments, by_size, total_bytes=total, now_ms=0)
        if kept.max_age_s is not None:
            oldest = SYSTEM_CLOCK.time_ms() - round(kept.max_age_s * 1000)
            at = await admin.offsets(self._cluster, found.kafka, dict.fromkeys(bounds, max(oldest, 0)), deadline)
            for number, offset in at.items():
                cuts[number] = max(cuts.get(number, 0), bounds[number][1] if offset < 0 else offset)
        cuts = {number: before for number, before in cuts.items() if before > bounds[number][0]}
        return await self._trim(found, bounds, cuts, False, deadline)

    def appended(self, found: Found) -> None:
        """Has retention enforced now and then, behind the append."""
        if found.info.retention == Retention():
            return
        name, now_ms = found.info.name, self._clock.time_ms()
        if abs(now_ms - self._enforced_ms.setdefault(name, now_ms)) >= RETENTION_EVERY_MS:
            self._enforced_ms[name] = now_ms
            task = asyncio.create_task(self._enforce(name), name=f"dynlog-kafka-retention-{name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _enforce(self, name: str) -> None:
        try:
            await self.enforce_retention(name, Deadline(_RETENTION_S))
        except DynlogError:
            return  # the next append tries again

    async def close(self) -> None:
        """Ends what runs by itself."""
        await self._mirror.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def events(self, name: str, deadline: Deadline) -> list[LogEvent]:
        """See `Log.events`."""
        state = (await self._meta.sync(deadline)).topics.get(name)
        return [] if state is None else list(state.events)

    # Consumer groups

    async def open_generation(
        self, group: str, name: str, positions: Mapping[int, int] | None, deadline: Deadline
    ) -> int:
        """See `Log.open_generation`."""
        check_name("group", group)
        found = await self._topics.owned(name, deadline)
        await self._check_positions(found, positions or {}, deadline)
        given = None if positions is None else dict(positions)
        generation: int = await self._meta.change(
            deadline, "generation", name, found.info.incarnation, group, given, self._clock.time_ms()
        )
        self._mirror.note(found, GroupState(group, generation, given or {}), given or {})
        return generation

    async def commit(
        self, group: str, name: str, positions: Mapping[int, int], generation: int, deadline: Deadline
    ) -> GroupState:
        """See `Log.commit`."""
        found = self._topics.cached(name) or await self._topics.owned(name, deadline)
        await self._check_positions(found, positions, deadline)
        state: GroupState = await self._meta.change(
            deadline, "commit", name, found.info.incarnation, group, generation, dict(positions), self._clock.time_ms()
        )
        self._mirror.note(found, state, positions)
        return state

    async def committed(self, group: str, name: str, deadline: Deadline) -> GroupState:
        """See `Log.committed`."""
        found = await self._topics.find(name, deadline)
        return GroupState(group, 0, {}) if found.state is None else group_state(found.state, group)

    async def _check_positions(self, found: Found, positions: Mapping[int, int], deadline: Deadline) -> None:
        name = found.info.name
        for number, offset in positions.items():
            check_partition(name, found.info.partitions, number)
            if offset < 0:
                raise ConfigurationError(f"a committed offset is 0 or more, not {offset} (partition {number})")
        if positions:
            latest = dict.fromkeys(positions, admin.LATEST)
            ends = await admin.offsets(self._cluster, found.kafka, latest, deadline)
            for number, offset in positions.items():
                if offset > ends[number]:
                    raise beyond_end(name, number, offset, ends[number])
