"""Which calls of a lane were answered, and where: a fold of its replies, so whoever takes the lane over knows as much.

* **The first outcome in log order is the answer**, effects included; a later one changes nothing.
* **A reply lives until its caller acknowledges it or its deadline and an hour of log time passed**; then it is expired,
  and a call that is made again under its name is told so instead of being run.
* **How often a request may have been begun** follows from the takeovers that lie behind it in the log.

It holds where replies lie, not the replies.  Names of replies that are gone are remembered for an hour past their
deadline, at most 262,144 of them: those that the lane still reads again stay in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import msgpack

from dynlog.batch import Batch
from dynlog.errors import SnapshotCorrupt
from dynlog.network.frames import Code
from dynlog.network.log_records import (
    BARRIER,
    CREDIT,
    DATA,
    END,
    ERROR,
    GOAWAY,
    KEPT_MS,
    TOMBSTONE,
    ident_of,
    meta_of,
)

MOST_GONE = 1 << 18
SWEEP_MS = 60_000
PIECE = 2000
"""Entries in one part of the snapshot: a millisecond or two of work."""
BY_CALLER = "caller"
"""The kind of an outcome CANCELLED that the caller itself asked for: nobody will ask for that answer."""
REFUSALS = frozenset({Code.OVERLOADED, Code.DRAINING, Code.NO_SUCH_TOPIC, Code.NOT_BEGUN})
"""Outcomes of a call that nobody began: made again under its name it is a new one."""


class Known(Enum):
    """What is known of a call."""

    NEW = "new"
    BROKEN = "broken"  # some of its replies are there, and whoever gave them is gone
    ANSWERED = "answered"
    EXPIRED = "expired"


class Answer(NamedTuple):
    """Where the replies to a call lie; ``last`` is -1 while there is no outcome."""

    request: int
    first: int
    last: int
    until_ms: int
    refused: bool


class ReplyCache:
    """The answers given by the lane of one target in one partition; a `Projection` of the replies' partition."""

    schema = "reply-cache/1"

    def __init__(self, target: bytes) -> None:
        self.target = target
        self._clear()

    def _clear(self) -> None:
        self.answers: dict[bytes, Answer] = {}
        self.effects: dict[int, bytes] = {}
        """Effects by the offset of their outcome that are not known to be appended."""
        self.effects_bytes = 0
        self.done_before = 0
        """Every request below this offset has its outcome, or needs none."""
        self._gone: dict[bytes, tuple[int, int]] = {}
        self._takeovers: list[int] = []
        self._serving = False
        self._now_ms = self._swept_ms = 0
        self.term = 0
        """How often the lane was taken over."""
        self.malformed = 0

    def find(self, ident: bytes, request: int) -> tuple[Known, Answer | None]:
        """What is known of the call that the request at that offset makes; ANSWERED without an answer, or with one to
        a request at or behind that offset, needs no word."""
        answer = self.answers.get(ident)
        if answer is None:
            gone = self._gone.get(ident)
            if gone is None:
                return Known.NEW, None
            return (Known.EXPIRED if request > gone[0] else Known.ANSWERED), None
        if answer.refused and request > answer.request:
            return Known.NEW, None
        if answer.last < 0:
            return Known.BROKEN, answer
        return (Known.EXPIRED if answer.until_ms < self._now_ms else Known.ANSWERED), answer

    def begun(self, request: int) -> int:
        """How many earlier owners of the lane may have begun the request at that offset."""
        return sum(1 for end in self._takeovers if request < end)

    def apply(self, batch: Batch) -> None:
        controls, times = batch.columns.controls, batch.log_times
        if controls is None:
            self.malformed += len(batch)
            return
        for index, body in enumerate(batch.bodies):
            now = times[index]
            if now >= self._swept_ms + SWEEP_MS:
                self._sweep(now)
            self._now_ms = max(self._now_ms, now)
            meta = meta_of(body)
            try:
                if meta is None:
                    self.malformed += 1
                elif controls[index] == TOMBSTONE:
                    self._acknowledged(batch.keys[index] or b"", meta)
                elif meta[0] == self.target:
                    self._one(controls[index], batch.offsets[index], batch.keys[index] or b"", meta, body)
            except (ValueError, TypeError, IndexError, AttributeError):
                self.malformed += 1

    def _one(self, control: int, offset: int, caller: bytes, meta: list[Any], body: Any) -> None:
        if control in (END, ERROR):
            _, name, request, deadline_ms = meta[:4]
            ident, until = ident_of(caller, name), int(deadline_ms) + KEPT_MS
            known = self.answers.get(ident)
            if ident in self._gone or (known is not None and known.last >= 0 and not known.refused):
                return
            if control == ERROR and meta[4] == Code.CANCELLED and meta[5] == BY_CALLER:
                self.answers.pop(ident, None)
                self._gone[ident] = int(request), until
                return
            refused = control == ERROR and meta[4] in REFUSALS
            first = offset if known is None or known.last >= 0 else known.first
            self.answers[ident] = Answer(int(request), first, offset, until, refused)
            if len(body) > 2:
                self.effects[offset] = bytes(body[2])
                self.effects_bytes += len(body[2])
        elif control == DATA:
            _, name, request, deadline_ms = meta[:4]
            ident = ident_of(caller, name)
            known = self.answers.get(ident)
            if ident not in self._gone and (known is None or known.refused):
                self.answers[ident] = Answer(int(request), offset, -1, int(deadline_ms) + KEPT_MS, False)
        elif control == BARRIER:
            end = int(meta[1])
            if self._serving:
                self._takeovers.append(end)
            self._serving = True
            self.term += 1
        elif control == GOAWAY:
            self._takeovers.append(int(meta[1]))
            self._serving = False
        elif control == CREDIT:
            done_before, appended = int(meta[1]), int(meta[2])
            self.done_before = max(self.done_before, done_before)
            if self.effects:
                self.effects = {at: what for at, what in self.effects.items() if at > appended}
                self.effects_bytes = sum(map(len, self.effects.values()))
            self._takeovers = [end for end in self._takeovers if end > self.done_before]

    def _acknowledged(self, caller: bytes, meta: list[Any]) -> None:
        for target, name in meta:
            if target != self.target:
                continue
            ident = ident_of(caller, name)
            answer = self.answers.get(ident)
            if answer is not None and answer.last >= 0:
                del self.answers[ident]
                self._gone[ident] = answer.request, answer.until_ms

    def _sweep(self, now: int) -> None:
        """By log time, so that every fold of the same records forgets the same."""
        self._swept_ms = now
        for ident in [ident for ident, answer in self.answers.items() if answer.until_ms < now]:
            answer = self.answers.pop(ident)
            self._gone[ident] = answer.request, now + KEPT_MS
        spare = len(self._gone) - MOST_GONE
        for ident, (request, until_ms) in list(self._gone.items()):
            if request < self.done_before and (until_ms < now or spare > 0):
                del self._gone[ident]
                spare -= 1

    def snapshot(self) -> Iterator[bytes]:
        """The state at the moment of the call."""
        answers = [(ident, *answer) for ident, answer in self.answers.items()]
        gone = [(ident, *row) for ident, row in self._gone.items()]
        effects = list(self.effects.items())
        head = msgpack.packb([
            self.schema, self.target, len(answers), len(gone), len(effects), self.done_before, self._takeovers,
            self._serving, self._now_ms, self._swept_ms, self.term, self.malformed,
        ])  # fmt: skip
        return self._parts(head, answers, gone, effects)

    @staticmethod
    def _parts(head: bytes, *tables: list[Any]) -> Iterator[bytes]:
        yield head
        for number, rows in enumerate(tables):
            for start in range(0, len(rows), PIECE):
                yield msgpack.packb([number, rows[start : start + PIECE]])

    def restore(self, parts: Iterable[bytes]) -> None:
        self._clear()
        tables: tuple[list[Any], list[Any], list[Any]] = [], [], []
        try:
            pieces = iter(parts)
            schema, target, *rest = msgpack.unpackb(next(pieces))
            if schema != self.schema or target != self.target:
                raise SnapshotCorrupt(f"replies of {schema!r} for {target!r}, not {self.schema!r} for {self.target!r}")
            *counts, done_before, takeovers, serving, now, swept, term, malformed = rest
            for piece in pieces:
                number, rows = msgpack.unpackb(piece)
                tables[number].extend(rows)
            if [len(table) for table in tables] != counts:
                raise SnapshotCorrupt(f"replies: {counts} entries were promised, others are there")
            answers = {bytes(row[0]): Answer(*row[1:]) for row in tables[0]}
            gone = {bytes(row[0]): (int(row[1]), int(row[2])) for row in tables[1]}
            effects = {int(at): bytes(what) for at, what in tables[2]}
        except (ValueError, TypeError, IndexError, StopIteration, msgpack.UnpackException) as error:
            raise SnapshotCorrupt(f"not a cache of replies: {error!r}") from None
        self.answers, self._gone, self.effects = answers, gone, effects
        self.effects_bytes = sum(map(len, effects.values()))
        self.done_before, self._takeovers, self._serving = done_before, list(takeovers), serving
        self._now_ms, self._swept_ms, self.term, self.malformed = now, swept, term, malformed
