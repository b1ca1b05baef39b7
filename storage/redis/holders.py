"""Holders and truncation: decided under a version that every holder changes, then carried out in the partitions.

So no truncation passes a holder that was there when it was decided, and none registers below what was decided on,
although holders and records lie in different hash slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgpack

from dynlog.errors import LogDiverged, TopicNotFound
from dynlog.storage.ledger import (
    HOLDER_EXPELLED,
    TRUNCATION_FORCED,
    Segment,
    beyond_end,
    check_holder,
    check_partition,
    retention_cuts,
    truncated,
    truncation_limit,
    why_expired,
)
from dynlog.storage.redis import topic_lua
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.partition_lua import PURGE_MARKS, TRIM
from dynlog.storage.redis.partitions import PAGE, Bounds, Partitions
from dynlog.storage.redis.topics import Topics
from dynlog.timing import Deadline
from dynlog.topics import HOLDER_MAX_LAG_BYTES, Holder, HolderKind, HolderState, LogEvent, Topic, Truncation


class Held(NamedTuple):
    """A holder, when it was last heard of, and why it no longer counts."""

    holder: Holder
    seen_ms: int
    expired: str | None = None


class View(NamedTuple):
    """The holders of a topic under one version, and the bounds of what they hold."""

    version: bytes
    held: Sequence[Held]
    bounds: Mapping[int, Bounds]


class Holders:
    """The holders of a handle's topics."""

    def __init__(self, client: Client, topics: Topics, partitions: Partitions) -> None:
        self._client = client
        self._topics = topics
        self._partitions = partitions

    async def hold(self, name: str, holder: Holder, deadline: Deadline, incarnation: str | None = None) -> None:
        """Registers or moves a holder; see `dynlog.log.Log.hold`."""
        check_holder(holder)
        topic = await self._topics.find(name, deadline, incarnation)
        bounds = await self._partitions.bounds(topic, holder.positions, deadline)
        for number, offset in holder.positions.items():
            state = bounds[number].state
            if offset < state.earliest:
                raise truncated(name, number, offset, state.earliest)
            if offset > state.end:
                raise beyond_end(name, number, offset, state.end)
        flat = [part for place in holder.positions.items() for part in place]
        value = [holder.kind.value, holder.expires_after_s or 0, holder.max_lag_bytes or 0, self._client.now_ms, *flat]
        keys = self._topics.keys(topic)
        reply = await self._client.run_script(
            topic_lua.HOLD,
            Job((keys.state, keys.holders, keys.floors), (holder.name, msgpack.packb(value), *flat)),
            deadline,
        )
        if reply[0] == b"LOW":
            raise truncated(name, reply[1], holder.positions[reply[1]], reply[2])
        if reply[0] == b"GONE":
            raise TopicNotFound("the topic was deleted", topic=name)

    async def release(self, name: str, holder: str, deadline: Deadline) -> None:
        """Forgets a holder."""
        try:
            topic = await self._topics.find(name, deadline)
        except (TopicNotFound, LogDiverged):
            return
        keys = self._topics.keys(topic)
        await self._client.run_script(topic_lua.RELEASE, Job((keys.state, keys.holders), (holder,)), deadline)

    async def states(self, name: str, deadline: Deadline) -> list[HolderState]:
        """All holders by name."""
        view = await self._look(await self._topics.find(name, deadline), (), deadline)
        return [
            HolderState(
                held.holder,
                held.seen_ms,
                sum(view.bounds[p].lag(offset) for p, offset in held.holder.positions.items()),
                held.expired is not None,
            )
            for held in view.held
        ]

    async def _look(self, topic: Topic, also: Sequence[int], deadline: Deadline) -> View:
        """The holders, with the bounds of every partition that they or the caller need."""
        keys = self._topics.keys(topic)
        reply = await self._client.run_script(
            topic_lua.LOOK, Job((keys.state, keys.holders, keys.floors)), deadline
        )  # fmt: skip
        if reply is None:
            raise TopicNotFound("the topic was deleted", topic=topic.name)
        version, raw, _ = reply
        held = sorted(
            (_held(name.decode(), msgpack.unpackb(value)) for name, value in zip(raw[::2], raw[1::2], strict=True)),
            key=lambda one: one.holder.name,
        )
        needed = {*also, *(p for one in held for p in one.holder.positions)}
        bounds = await self._partitions.bounds(topic, sorted(needed), deadline)
        now_ms = self._client.now_ms
        judged = [
            one._replace(
                expired=why_expired(one.holder, one.seen_ms, now_ms, await self._lag(topic, one, bounds, deadline))
            )
            for one in held
        ]
        return View(version, judged, bounds)

    async def _lag(self, topic: Topic, one: Held, bounds: Mapping[int, Bounds], deadline: Deadline) -> int:
        """The bytes that it keeps, as exactly as they matter: asked for only if they could be too many."""
        positions = one.holder.positions
        at_most = sum(bounds[p].state.bytes for p in positions)
        bound = one.holder.max_lag_bytes or HOLDER_MAX_LAG_BYTES
        if one.holder.kind is HolderKind.PINNED or at_most <= bound:
            return at_most
        return await self._partitions.bytes_from(topic, positions, deadline)

    # Truncation

    async def truncate(
        self,
        name: str,
        partition: int,
        before: int,
        force: bool,
        deadline: Deadline,
        incarnation: str | None = None,
    ) -> Truncation:
        """Truncates as far as the holders allow that have not expired, or all the way."""
        topic = await self._topics.find(name, deadline, incarnation)
        check_partition(name, topic.partitions, partition)
        return await self._truncate(topic, partition, before, force, deadline)

    async def _truncate(self, topic: Topic, partition: int, before: int, force: bool, deadline: Deadline) -> Truncation:
        name = topic.name
        while True:
            deadline.check(f"truncating {name}")
            view = await self._look(topic, (partition,), deadline)
            state = view.bounds[partition].state
            if before > state.end:
                raise beyond_end(name, partition, before, state.end)
            if before <= state.earliest:
                return Truncation(partition, state.earliest, before)
            limit = truncation_limit(before, partition, [one.holder for one in view.held if one.expired is None])
            target = before if force else max(limit.before, state.earliest)
            events = _expelled(view, self._client.now_ms)
            if force:
                passed = f", passing {', '.join(limit.blocked_by)}" if limit.blocked_by else ""
                detail = f"partition {partition} from {state.earliest} to {target}{passed}"
                events.append(msgpack.packb([self._client.now_ms, TRUNCATION_FORCED, detail]))
            if await self._apply(topic, view, events, (partition, target), deadline):
                break
        earliest = await self._trim(topic, partition, target, deadline)
        return Truncation(partition, earliest, before, () if force else limit.blocked_by)

    async def _apply(
        self, topic: Topic, view: View, events: Sequence[bytes], floors: Sequence[int], deadline: Deadline
    ) -> bool:
        """Drops the expired holders with their events and moves the floors; False if a holder came in between."""
        keys = self._topics.keys(topic)
        names = [one.holder.name for one in view.held if one.expired is not None]
        reply = await self._client.run_script(
            topic_lua.APPLY,
            Job(
                (keys.state, keys.holders, keys.floors, keys.events),
                (view.version, len(names), len(events), *names, *events, *floors),
            ),
            deadline,
        )
        if reply == b"GONE":
            raise TopicNotFound("the topic was deleted", topic=topic.name)
        return bool(reply == b"OK")

    async def _trim(self, topic: Topic, partition: int, target: int, deadline: Deadline) -> int:
        keys = self._topics.partition(topic, partition)
        while True:
            reply = await self._client.run_script(TRIM, Job(keys[:2], (target,)), deadline)
            if reply[0] == b"GONE":
                raise TopicNotFound("the topic was deleted", topic=topic.name)
            if reply[0] == b"HIGH":
                raise beyond_end(topic.name, partition, target, reply[1])
            if not reply[2]:
                return int(reply[1])

    # Retention

    async def retain(self, name: str, deadline: Deadline) -> list[Truncation]:
        """Drops expired holders and marks, then what retention no longer keeps and nobody holds."""
        topic = await self._topics.find(name, deadline)
        everywhere = range(topic.partitions)
        while True:
            view = await self._look(topic, everywhere, deadline)
            events = _expelled(view, self._client.now_ms)
            if not events or await self._apply(topic, view, events, (), deadline):
                break
        await self._purge(topic, deadline)
        cuts = await self._cuts(topic, view.bounds, deadline)
        return [await self._truncate(topic, p, before, False, deadline) for p, before in sorted(cuts.items())]

    async def retention_is_due(self, topic: Topic, every_ms: int, deadline: Deadline) -> bool:
        """Whether this handle is the one to enforce it now."""
        keys = self._topics.keys(topic)
        job = Job((keys.state,), (self._client.now_ms, every_ms))
        return bool(await self._client.run_script(topic_lua.CLAIM, job, deadline))

    async def _cuts(self, topic: Topic, bounds: Mapping[int, Bounds], deadline: Deadline) -> dict[int, int]:
        """Where retention cuts, reading only as many segments as it goes through."""
        if topic.retention.max_age_s is None and topic.retention.max_bytes is None:
            return {}
        states = {p: bound.state for p, bound in bounds.items() if bound.state.earliest < bound.state.end}
        segments: dict[int, list[Segment]] = {}
        grow = {p: state.earliest for p, state in states.items()}
        while True:
            for p, offset in grow.items():
                more = await self._partitions.segments(topic, p, states[p], offset, deadline)
                segments.setdefault(p, []).extend(more)
            cuts = retention_cuts(
                segments,
                topic.retention,
                total_bytes=sum(state.bytes for state in states.values()),
                now_ms=self._client.now_ms,
            )
            grow = {
                p: cut
                for p, cut in cuts.items()
                if len(segments[p]) % PAGE == 0 and cut == segments[p][-1].next < states[p].end and p in grow
            }
            if not grow:
                return cuts

    async def _purge(self, topic: Topic, deadline: Deadline) -> None:
        """Forgets the producers whose marks have expired."""
        cursors = dict.fromkeys(range(topic.partitions), 0)
        while cursors:
            places = {p: self._topics.partition(topic, p) for p in cursors}
            jobs = [Job((place.meta, place.marks), (cursors[p],)) for p, place in places.items()]
            replies = await self._client.run_scripts(PURGE_MARKS, jobs, deadline)
            cursors = {p: cursor for p, cursor in zip(places, replies, strict=True) if cursor}

    # Events

    async def events(self, name: str, deadline: Deadline) -> list[LogEvent]:
        """The newest thousand, oldest first."""
        try:
            topic = await self._topics.find(name, deadline)
        except (TopicNotFound, LogDiverged):
            return []
        raw = await self._client.run_script(topic_lua.EVENTS, Job((self._topics.keys(topic).events,)), deadline)
        return [LogEvent(time_ms, kind, name, detail) for time_ms, kind, detail in map(msgpack.unpackb, raw)]

    async def note(self, topic: Topic, kind: str, details: Sequence[str], deadline: Deadline) -> None:
        """Leaves events."""
        keys = self._topics.keys(topic)
        packed = [msgpack.packb([self._client.now_ms, kind, detail]) for detail in details]
        await self._client.run_script(topic_lua.NOTE, Job((keys.state, keys.events), packed), deadline)


def _held(name: str, value: Sequence[Any]) -> Held:
    kind, expires, lag, seen_ms, *flat = value
    positions = MappingProxyType(dict(zip(flat[::2], flat[1::2], strict=True)))
    return Held(Holder(name, HolderKind(kind), positions, expires or None, lag or None), seen_ms)


def _expelled(view: View, now_ms: int) -> list[bytes]:
    return [
        msgpack.packb([now_ms, HOLDER_EXPELLED, f"{one.holder.name}: {one.expired}"])
        for one in view.held
        if one.expired is not None
    ]
