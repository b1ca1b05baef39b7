"""A log's own topic, folded: every question is answered at its end, every change is an entry whose place decides.

The topic has one partition and is called ``__dynlog`` or ``__dynlog.<prefix>``; its topic id is the log's identity.
An entry is a message whose value is msgpack ``[kind, id, fields]``.  So that it does not grow without bound, whoever
writes the entry after which 2,000 have come since the last snapshot writes another one: the state as of an offset, in
pieces (kind ``snapshot``, fields ``[as of, piece, pieces, bytes]``), and truncates what lies below that offset.  Who
folds from a truncated start keeps the entries until the first whole snapshot, and applies those that it does not cover.
"""

from __future__ import annotations

import asyncio
import uuid
import zlib
from contextlib import suppress
from typing import Any

import msgpack

from dynlog.errors import DynlogError, LogCorrupt, LogDiverged, LogUnavailable
from dynlog.storage.kafka import admin, fold
from dynlog.storage.kafka.cluster import BACKOFF, Cluster, Place
from dynlog.storage.kafka.failures import GONE, OFFSET_OUT_OF_RANGE, name_of
from dynlog.storage.kafka.fetches import Spot, decode, fetch
from dynlog.storage.kafka.lanes import Lanes
from dynlog.storage.kafka.messages import BATCH_OVERHEAD, RECORD_OVERHEAD, Message
from dynlog.storage.kafka.state import State, pack_state, unpack_state
from dynlog.timing import Deadline

SNAPSHOT_EVERY = 2_000
SNAPSHOT_PIECE = 256 << 10
SNAPSHOT = "snapshot"
_FETCH_BYTES = 1 << 20
_OVERHEAD = BATCH_OVERHEAD + RECORD_OVERHEAD + 16


class Meta:
    """The state, as of the offset up to which it was folded."""

    def __init__(self, cluster: Cluster, lanes: Lanes, place: Place) -> None:
        self._cluster = cluster
        self._lanes = lanes
        self._place = place
        self.state = State()
        self._next = 0
        self._outcomes: dict[bytes, Any] = {}
        self._lock = asyncio.Lock()
        self._asked = self._answered = 0
        self._snapshot_as_of = 0
        self._leader: int | None = None
        self._early: list[tuple[int, str, bytes, list[Any]]] | None = None
        self._pieces: dict[int, dict[int, bytes]] = {}

    @property
    def identity(self) -> str:
        """The log's own incarnation."""
        return self._place.incarnation

    async def sync(self, deadline: Deadline) -> State:
        """The state as of an end that was the end after the call began."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._answered < mine:
                answered = self._asked
                await self._read_on(deadline)
                self._answered = answered
        return self.state

    async def change(self, deadline: Deadline, kind: str, *fields: Any) -> Any:
        """Appends an entry and returns its outcome, or raises it; OutcomeUnknown if nobody knows."""
        entry_id = uuid.uuid4().bytes
        value = msgpack.packb([kind, entry_id, list(fields)])
        message: Message = (None, value, [])
        self._outcomes[entry_id] = None
        try:
            stored = await self._lanes.append(self._place.name, 0, [message], len(value) + _OVERHEAD, deadline)
            async with self._lock:
                if self._next == stored.base and self._early is None:
                    self._apply(stored.base, kind, entry_id, list(fields))  # nobody wrote in between
                    self._next = stored.base + 1
                elif self._next <= stored.base:
                    await self._read_on(deadline)
            outcome = self._outcomes[entry_id]
        finally:
            del self._outcomes[entry_id]
        if stored.base - self._snapshot_as_of >= SNAPSHOT_EVERY and stored.base % 100 == 0:
            with suppress(DynlogError):  # the change is made; the next one tries again
                await self._write_snapshot(deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _read_on(self, deadline: Deadline) -> None:
        """Folds up to the end."""
        backoff = iter(BACKOFF)
        at_least = await self._end_at_a_new_leader(deadline)
        while True:
            spot = Spot(self._place.name, self._place.id, 0, self._next)
            try:
                fetched = await fetch(self._cluster, spot, _FETCH_BYTES, deadline)
            except LogUnavailable:
                pause = next(backoff)
                if deadline.remaining <= pause:
                    raise
                await asyncio.sleep(pause)
                continue
            if fetched.code == OFFSET_OUT_OF_RANGE:
                await self._start_over(deadline)
                continue
            if fetched.code:
                await self._check_there(fetched.code, deadline)
                await asyncio.sleep(next(backoff))
                continue
            decoded = decode(spot, fetched, None)
            columns = decoded.builder.build()
            for offset, body in zip(decoded.builder.offsets, columns.bodies, strict=True):
                self._read_entry(offset, body[0] if body else b"")
            self._next = max(decoded.next, self._next)
            if self._next >= max(fetched.end, at_least):
                return

    async def _end_at_a_new_leader(self, deadline: Deadline) -> int:
        """The end, if the leader is a new one: its fetches may not show yet what the old one acknowledged."""
        node = await self._cluster.leader(self._place.name, 0, deadline)
        if node is not None and node == self._leader:
            return 0
        ends = await admin.offsets(self._cluster, self._place.name, {0: admin.LATEST}, deadline)
        self._leader = node
        return ends[0]

    async def _start_over(self, deadline: Deadline) -> None:
        """Others truncated what this handle had not folded yet."""
        ((start, end),) = (await admin.bounds(self._cluster, self._place.name, [0], deadline)).values()
        if self._next > end:
            raise LogDiverged("the log's own topic lost its tail: open the log anew", topic=self._place.name)
        self.state, self._next, self._early, self._pieces = State(), start, [] if start else None, {}

    async def _check_there(self, code: int, deadline: Deadline) -> None:
        if code in GONE:
            found = (await self._cluster.describe([self._place.name], deadline)).get(self._place.name)
            if found is not None and found.id != self._place.id:
                raise LogDiverged("the log was deleted and created anew: open it again", topic=self._place.name)
        else:
            self._cluster.forget(self._place.name)
        if deadline.remaining <= 0.01:
            raise LogUnavailable(f"the log's own topic cannot be read: {name_of(code)}", topic=self._place.name)

    def _read_entry(self, offset: int, value: bytes) -> None:
        if offset < self._next:
            return
        try:
            kind, entry_id, fields = msgpack.unpackb(value, strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise LogCorrupt(
                f"what others wrote into the log's own topic is no entry: {error}",
                topic=self._place.name,
                offset=offset,
            ) from None
        if kind == SNAPSHOT:
            self._read_snapshot(*fields)
        elif self._early is not None:
            self._early.append((offset, kind, entry_id, fields))
        else:
            self._apply(offset, kind, entry_id, fields)
        self._next = offset + 1  # entry by entry: what follows may be refused, and no entry may be folded twice

    def _apply(self, offset: int, kind: str, entry_id: bytes, fields: list[Any]) -> None:
        outcome = fold.apply(self.state, kind, fields, offset)
        if entry_id in self._outcomes:
            self._outcomes[entry_id] = outcome

    def _read_snapshot(self, as_of: int, writer: int, piece: int, pieces: int, content: bytes) -> None:
        self._snapshot_as_of = max(self._snapshot_as_of, as_of)
        if self._early is None:
            return
        found = self._pieces.setdefault(writer, {})
        found[piece] = content
        if len(found) < pieces:
            return
        packed = zlib.decompress(b"".join(found[number] for number in range(pieces)))
        self.state = unpack_state(msgpack.unpackb(packed, strict_map_key=False))
        early, self._early, self._pieces = self._early, None, {}
        for entry in early:
            if entry[0] >= as_of:
                self._apply(*entry)

    async def _write_snapshot(self, deadline: Deadline) -> None:
        """Writes the state and truncates what it covers; if that fails, the next one does it."""
        as_of, packed = self._next, zlib.compress(msgpack.packb(pack_state(self.state)), 1)
        self._snapshot_as_of = as_of
        writer = uuid.uuid4().int >> 65
        contents = [packed[at : at + SNAPSHOT_PIECE] for at in range(0, len(packed), SNAPSHOT_PIECE)]
        for piece, content in enumerate(contents):
            value = msgpack.packb([SNAPSHOT, b"", [as_of, writer, piece, len(contents), content]])
            message: Message = (None, value, [])
            await self._lanes.append(self._place.name, 0, [message], len(value) + _OVERHEAD, deadline)
        await admin.delete_records(self._cluster, self._place.name, {0: as_of}, deadline)
