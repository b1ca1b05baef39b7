"""What a client does: one operation after another on keys that others use at the same time, each written down.

Keys live for a few seconds, so that no history grows long, and now and then an old one is looked at again: what was
acknowledged before a fault must be there after it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from dynlog.errors import DeadlineExceeded, KeyExists, LogUnavailable, OutcomeUnknown, RevisionConflict
from dynlog.kv import Bucket
from tests.kv.linearizability.history import Kind, Outcome, Recorder

KEYS = 3
SPAN_S = 2.0
TIMEOUT_S = 8.0
_KINDS = [Kind.GET] * 8 + [Kind.UPDATE] * 6 + [Kind.CREATE] * 4 + [Kind.DELETE] * 3 + [Kind.PUT]


@dataclass
class Client:
    """One sequential process: what it knows of keys it learned by its own reads and writes."""

    bucket: Bucket
    recorder: Recorder
    process: str
    dice: random.Random

    async def work(self, goes_on: Callable[[], bool], done: Callable[[], None]) -> None:
        """One operation after another; calls ``done`` after each that was answered."""
        known: dict[str, int] = {}
        number = 0
        while goes_on():
            number += 1
            if await self.one(self._key(), self.dice.choice(_KINDS), f"{self.process}#{number}", known):
                done()

    def _key(self) -> str:
        epoch = int(time.monotonic() / SPAN_S)
        if self.dice.random() < 0.2:
            epoch -= self.dice.randrange(1, 4)
        return f"{epoch}.{self.dice.randrange(KEYS)}"

    async def one(self, key: str, kind: Kind, value: str, known: dict[str, int]) -> bool:
        """One operation, written down before and after; whether it was answered."""
        expected: int | None = None
        if kind is Kind.UPDATE or (kind is Kind.DELETE and self.dice.random() < 0.5):
            expected = known.get(key)
            if expected is None:
                kind = Kind.GET if kind is Kind.UPDATE else kind
        written = value if kind in (Kind.PUT, Kind.CREATE, Kind.UPDATE) else None
        number = self.recorder.invoke(self.process, kind, key, value=written, expected=expected)
        try:
            found, revision = await self._ask(kind, key, value.encode(), expected)
        except KeyExists:
            self.recorder.ended(number, Outcome.EXISTS)
        except RevisionConflict:
            known.pop(key, None)
            self.recorder.ended(number, Outcome.CONFLICT)
        except OutcomeUnknown:
            self.recorder.ended(number, Outcome.UNKNOWN)
            return False
        except (LogUnavailable, DeadlineExceeded):
            # These promise that nothing was written and nothing will be.
            self.recorder.ended(number, Outcome.FAILED)
            return False
        else:
            if revision is None:
                known.pop(key, None)
                self.recorder.ended(number, Outcome.ABSENT)
                return True
            known[key] = revision
            self.recorder.ended(number, Outcome.OK, value=found, revision=revision)
        return True

    async def _ask(self, kind: Kind, key: str, value: bytes, expected: int | None) -> tuple[str | None, int | None]:
        """(value found, revision), the latter None if the key is not there; raises what the bucket raises."""
        match kind:
            case Kind.GET:
                entry = await self.bucket.get(key, linearizable=True, timeout=TIMEOUT_S)
                return (None, None) if entry is None else (entry.value.decode(), entry.revision)
            case Kind.PUT:
                return None, await self.bucket.put(key, value, timeout=TIMEOUT_S)
            case Kind.CREATE:
                return None, await self.bucket.create(key, value, timeout=TIMEOUT_S)
            case Kind.UPDATE:
                assert expected is not None
                return None, await self.bucket.update(key, value, expected, timeout=TIMEOUT_S)
            case Kind.DELETE:
                return None, await self.bucket.delete(key, expected, timeout=TIMEOUT_S)


async def read_finally(bucket: Bucket, recorder: Recorder, keys: list[str]) -> None:
    """Reads every key once more, as a process of its own: nothing that was acknowledged is lost at the end."""
    last = Client(bucket, recorder, "finally", random.Random(0))
    for key in keys:
        assert await last.one(key, Kind.GET, "", {}), f"no answer about {key} although everything is whole again"
