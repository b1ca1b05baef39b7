"""Which batches of one engine follow each other without a break: what is taken, asked for again, or given up.

A *lineage* is an unbroken run of batches of one engine.  It is named by its *incarnation*, the digest of its first
batch (``ts`` included, so no two engines share one) and of the lineage that ended before it: an engine can be taken up
again from the same first batch, and what the log was then told to drop must not pass for a repeat.  The rules, free of
sockets and clocks:

* after every connect the replay is asked for the last batch taken; only if its bytes are the same does the lineage go
  on, because an engine can have restarted and passed the old sequence meanwhile;
* a live batch is taken only as the next one; after a gap the replay is asked; what arrives meanwhile is held (bounded);
* a break that cannot be healed (the replay no longer reaches back, offers other bytes, or is not there) ends the
  lineage with `Clear`, and the next batch begins another: what the worker holds is then unknown.

An engine's replay socket drops what does not fit its high-water mark, so a hole *inside* a replay is asked for again as
long as asking makes progress.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from typing import NamedTuple

import xxhash

from dynlog.ingest_items import NoticeKind

RECENT = 4096
"""Batches whose digests are remembered, to tell a repeat from another engine's batch of the same number."""
MAX_HELD_BYTES = 16 << 20
MAX_FAILURES = 3
"""Unanswered replay requests, while live batches wait, after which continuity is given up."""


class Known(NamedTuple):
    """How far a lineage was taken; ``digest`` is of the batch ``last``."""

    incarnation: str
    last: int
    digest: bytes

    @property
    def name(self) -> str:
        """Names the lineage as one that ended here."""
        return f"{self.incarnation}:{self.last}"


class Take(NamedTuple):
    """Store this batch; ``known`` is the lineage with it."""

    known: Known
    payload: bytes


class Clear(NamedTuple):
    """Drop what the worker holds: the lineage ended behind ``known.last``."""

    known: Known
    reason: str


class Ask(NamedTuple):
    """Request the replay from this sequence on, in place of any request under way."""

    start: int


class Tell(NamedTuple):
    """Count and log."""

    kind: NoticeKind
    detail: str
    times: int = 1


Action = Take | Clear | Ask | Tell


class Phase(Enum):
    """What a live batch meets."""

    DOWN = "down"  # not connected: held
    ASKING = "asking"  # the replay is under way: held
    FLOWING = "flowing"  # taken if it is the next one


class _Batch(NamedTuple):
    sequence: int
    payload: bytes
    digest: bytes


def digest_of(payload: bytes) -> bytes:
    """16 bytes that name a batch; guards against accidents, not against a forger."""
    return bytes(xxhash.xxh3_128_digest(payload))


class Lineage:
    """The state of one source; every method returns what is to be done, in order."""

    def __init__(
        self, known: Known | None, *, has_replay: bool, ended: str = "", max_held_bytes: int = MAX_HELD_BYTES
    ) -> None:
        """``ended`` is the `Known.name` of the lineage that ended before this one, if there was any."""
        self.known = known
        self._ended = ended
        self.phase = Phase.DOWN
        self._has_replay = has_replay
        self._max_held = max_held_bytes
        self._held: deque[_Batch] = deque()
        self._held_bytes = 0
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._failures = 0
        self._futile = 0
        self._told_gap = -1
        self._confirmed = self._progress = self._holed = self._probing = False  # of the request under way

    def connected(self) -> list[Action]:
        """The engine's socket was reached (again)."""
        self._probing = False
        self._drop_held()
        self._failures = self._futile = 0
        if self._has_replay:
            return [self._ask()]
        self.phase = Phase.FLOWING
        if self.known is None:
            return []
        return [Tell(NoticeKind.UNVERIFIED, f"connected without a replay socket behind batch {self.known.last}")]

    def disconnected(self) -> None:
        """The connection is gone: what was held belonged to it, and a replay will offer it again if it counts.

        Without a replay nothing could be confirmed later, so what is still read is judged by its number alone.
        """
        if not self._has_replay:
            return
        self.phase = Phase.DOWN
        self._probing = False
        self._drop_held()

    def live(self, sequence: int, payload: bytes) -> list[Action]:
        """A batch was published."""
        batch = _Batch(sequence, payload, digest_of(payload))
        known = self.known
        if self._probing and known is not None and sequence == known.last + 1 and not self._held:
            self.phase = Phase.FLOWING  # the next one came: nothing was lost, whatever the probe says
            self._probing = False
        if self.phase is not Phase.FLOWING:
            return self._hold(batch)
        if known is None:
            # The replay had nothing, so an engine's first batch is 0; a later number means that some were missed.
            if sequence == 0 or not self._has_replay:
                return [self._take(batch)]
            return [*self._hold(batch), self._ask()]
        if sequence == known.last + 1:
            return [self._take(batch)]
        if sequence <= known.last and self._recent.get(sequence) == batch.digest:
            return [Tell(NoticeKind.DUPLICATE, f"batch {sequence} came again")]
        told = self._gap(known.last + 1, sequence)
        if self._has_replay:
            return [*told, *self._hold(batch), self._ask()]
        reason = "and there is no replay socket" if told else f"batch {sequence} after {known.last}: a new engine"
        return [*told, self._clear(reason), self._take(batch)]

    def replayed(self, sequence: int, payload: bytes) -> list[Action]:
        """The replay under way offers a batch."""
        if self.phase is not Phase.ASKING or self._holed:
            return []
        batch = _Batch(sequence, payload, digest_of(payload))
        known = self.known
        if known is None:
            return [self._take(batch)]
        if sequence < known.last:
            return []
        if sequence == known.last:
            if batch.digest == known.digest:
                self._confirmed = True
                return []
            return [self._clear(f"batch {sequence} is another one now: a new engine"), self._ask()]
        if not self._confirmed:
            reason = f"the replay begins at {sequence}, behind batch {known.last}"
            return [*self._gap(known.last + 1, sequence), self._clear(reason), self._take(batch)]
        if sequence > known.last + 1:
            self._holed = True
            return []
        return [self._take(batch)]

    def replay_ended(self) -> list[Action]:
        """The replay under way came to its end marker."""
        if self.phase is not Phase.ASKING:
            return []
        self._failures = 0
        if self.known is not None and not self._confirmed:
            return [self._clear(f"the replay ends before batch {self.known.last}: a new engine"), self._ask()]
        if self._holed:
            return self._ask_again() or [self._clear("the replay has a hole"), self._ask()]
        self.phase = Phase.FLOWING
        return self._settle()

    def replay_failed(self) -> list[Action]:
        """The request was not answered to its end in time."""
        if self.phase is not Phase.ASKING:
            return []
        if self._probing and not self._held:
            self.phase = Phase.FLOWING
            self._probing = False
            return []
        self._failures = 0 if self._progress else self._failures + 1
        if not self._held or self._failures < MAX_FAILURES:
            return [self._ask()]
        self.phase = Phase.FLOWING
        self._failures = 0
        self._futile = MAX_FAILURES
        detail = f"the replay socket did not answer {MAX_FAILURES} times"
        return [Tell(NoticeKind.UNVERIFIED, detail), *self._settle()]

    def probe(self) -> list[Action]:
        """Nothing came for a while: whether the last batches were lost on the way, only the replay can tell."""
        if self.phase is not Phase.FLOWING or not self._has_replay:
            return []
        ask = self._ask()
        self._probing = True
        return [ask]

    def _settle(self) -> list[Action]:
        """Goes through what was held while the replay ran."""
        actions: list[Action] = []
        while self._held:
            batch = self._held[0]
            known = self.known
            if known is not None and batch.sequence > known.last + 1:
                again = self._ask_again()
                if again:
                    return actions + again
                actions += self._gap(known.last + 1, batch.sequence)
                actions.append(self._clear(f"the replay does not offer batch {known.last + 1}"))
            elif known is not None and batch.sequence <= known.last and not (self._confirmed or self._repeats(batch)):
                actions.append(self._clear(f"batch {batch.sequence} after {known.last}: a new engine"))
            elif known is not None and batch.sequence <= known.last:
                actions.append(Tell(NoticeKind.DUPLICATE, f"batch {batch.sequence} came live and by replay"))
                self._release()
                continue
            self._release()
            actions.append(self._take(batch))
        return actions

    def _ask(self) -> Ask:
        self.phase = Phase.ASKING
        self._confirmed = self._progress = self._holed = self._probing = False
        return Ask(self.known.last if self.known else 0)

    def _ask_again(self) -> list[Action]:
        """Another request if the last one got further, or was the first that did not."""
        self._futile = 0 if self._progress else self._futile + 1
        return [self._ask()] if self._futile < 2 else []

    def _take(self, batch: _Batch) -> Take:
        incarnation = self.known.incarnation if self.known else self._incarnation(batch)
        self.known = Known(incarnation, batch.sequence, batch.digest)
        self._confirmed = self._progress = True
        self._recent[batch.sequence] = batch.digest
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return Take(self.known, batch.payload)

    def _incarnation(self, first: _Batch) -> str:
        return (digest_of(self._ended.encode() + first.digest) if self._ended else first.digest)[:8].hex()

    def _repeats(self, batch: _Batch) -> bool:
        same = self._recent.get(batch.sequence) == batch.digest
        return same or (self.known is not None and (batch.sequence, batch.digest) == self.known[1:])

    def _clear(self, reason: str) -> Clear:
        assert self.known is not None
        ended, self.known = self.known, None
        self._ended = ended.name
        self._recent.clear()
        self._futile = 0
        self._told_gap = -1
        return Clear(ended, reason)

    def _gap(self, first: int, found: int) -> list[Action]:
        """Tells of a gap once, however often it is met while it is being filled."""
        if found <= first or self._told_gap == first:
            return []
        self._told_gap = first
        return [Tell(NoticeKind.GAP, f"batches {first} to {found - 1} are missing", found - first)]

    def _hold(self, batch: _Batch) -> list[Action]:
        if self._held and batch.sequence <= self._held[-1].sequence and batch.digest != self._held[-1].digest:
            self._drop_held()  # numbers fell: what came before was an earlier engine's
        self._held.append(batch)
        self._held_bytes += len(batch.payload)
        if self._held_bytes <= self._max_held:
            return []
        count = len(self._held)
        self._drop_held()
        return [
            Tell(NoticeKind.OVERFLOW, f"{count} live batches dropped while the replay runs; it will fill in", count)
        ]

    def _release(self) -> None:
        self._held_bytes -= len(self._held.popleft().payload)

    def _drop_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0
