"""Copies one bucket of NATS's object store below a prefix, object by object, until the bucket stands still.

* **A copy exists only if its bytes have the digest that NATS has for them**, read to the end.
* **Nothing that lies under a key already is ever replaced, unless this migration put it there.**
* A bucket that changes meanwhile is looked at again; what keeps changing is named.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from pydantic import JsonValue

from dynlog.adapters.nats.objects import NatsObject, ObjectBucket, list_objects, read_object, resolve_link
from dynlog.adapters.nats.streams import stream_info
from dynlog.errors import (
    DynlogError,
    LogError,
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStoreForbidden,
    ObjectStoreUnavailable,
    SourceUnavailable,
)
from dynlog.migrations.nats.contract import MADE_BY, Item, Moved, Outcome, Refusal, Run
from dynlog.migrations.nats.keys import key_of
from dynlog.migrations.nats.object_details import describe, details_of, sha256_of
from dynlog.objects import ObjectInfo

ROUNDS = 5
"""So often a bucket that changes is looked at again."""
SMALL_BYTES = 1 << 20
"""Objects below this are read whole before they are put: a store spares the buffers of a body of unknown size."""
LARGE_BYTES = 16 << 20
"""Objects from here on are copied one at a time: a store holds several parts of each in memory."""
MOST_IN_A_ROW = 3
"""After so many failures of the store in a row, with nothing stored in between, only what is smaller than all of them
is still tried, as often again: the store may be full, and not away."""
NOT_TAKEN = (ObjectStoreUnavailable, ObjectStoreForbidden)

Change = Callable[[NatsObject, bytes], bytes | None]
"""What an object below `SMALL_BYTES` is to be instead in the copy; None leaves it as it is."""


@dataclass(slots=True)
class _Copying:
    """One apply of one bucket."""

    item: Item
    run: Run
    prefix: str
    change: Change | None
    variant: str
    there: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    moved: int = 0
    already: int = 0
    bytes: int = 0
    passed: int = 0
    """Bytes that were there already."""
    under_way: int = 0
    failures: int = 0
    error: DynlogError | None = None
    not_taken: int = sys.maxsize
    """The size of the smallest object that the store did not take."""
    large: asyncio.Lock = field(default_factory=asyncio.Lock)

    def gives_up(self, size: int) -> bool:
        """Whether an object of that size is not tried any more, after so many failures in a row."""
        return self.failures >= 2 * MOST_IN_A_ROW or (self.failures >= MOST_IN_A_ROW and size >= self.not_taken)

    def tell(self) -> None:
        """How far it is."""
        self.run.progress(self.item, len(self.done), self.bytes + self.passed + self.under_way)

    @property
    def outcome(self) -> Outcome:
        refused = tuple(Refusal(name=name, why=why) for name, why in sorted(self.refused.items()))
        return Outcome(item=self.item.id, moved=self.moved, already=self.already, bytes=self.bytes, refused=refused)


async def copy_bucket(
    item: Item, bucket: ObjectBucket, run: Run, prefix: str, change: Change | None = None, variant: str = ""
) -> Outcome:
    """Copies what is not there yet, below ``<prefix>/<bucket>/``; small objects may be changed.

    ``variant`` says how: what was copied as another one is copied again.

    Raises what stands in the way of all objects: SourceUnavailable, ObjectStoreUnavailable, ObjectStoreForbidden,
    errors of the log.
    """
    copying = _Copying(item, run, prefix, change, variant)
    await run.making(item, "objects", f"{prefix}/{bucket.name}/")
    async for info in run.objects.list(f"{prefix}/{bucket.name}/"):
        copying.there[info.key] = info.size
    last = -1
    for _ in range(ROUNDS):
        now = (await stream_info(run.server, bucket.info.name)).last_seq
        if now == last:
            break
        last = now
        await _round(copying, await list_objects(run.server, bucket))
        await run.journal.flush()
    else:
        now = (await stream_info(run.server, bucket.info.name)).last_seq
    if now != last:
        copying.refused.setdefault(bucket.name, "the bucket keeps changing: apply again, it goes on from here")
    return copying.outcome


async def _round(copying: _Copying, objects: list[NatsObject]) -> None:
    copying.refused.clear()  # what was wrong may be right now; what still is will be named again
    waiting = iter(objects)

    async def work() -> None:
        for object in waiting:
            await _one(copying, object)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(copying.run.limits.concurrency, len(objects))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if copying.error is not None and copying.failures >= MOST_IN_A_ROW and not copying.done:
        raise copying.error


async def _one(copying: _Copying, object: NatsObject) -> None:
    try:
        if await _bring(copying, object):
            copying.failures = 0
    except (LogError, SourceUnavailable):
        raise
    except NOT_TAKEN as error:
        copying.failures += 1
        copying.error = error
        copying.not_taken = min(object.size or copying.not_taken, copying.not_taken)
        copying.refused[object.name] = str(error)
    except DynlogError as error:
        copying.refused[object.name] = str(error)


async def _bring(copying: _Copying, object: NatsObject) -> bool:
    """Whether the object's copy is as it should be, and something was written for that."""
    item, run = copying.item, copying.run
    if object.problem:
        copying.refused[object.name] = object.problem
        return False
    key = key_of(copying.prefix, object.bucket, object.name)
    line = run.journal.lines(item.id).get(object.name)
    if object.deleted:
        return await _honour_deletion(copying, object, key, line)
    content = object
    if object.link is not None and object.link[1] is not None:
        content = await resolve_link(run.server, object)
    if (
        line is not None
        and (line.source_seq, line.detail.get("nuid")) == (object.sequence, content.nuid)
        and copying.there.get(key) == line.size
        and ("changed" not in line.detail or line.detail["changed"] == copying.variant)
    ):
        _count(copying, object.name, size=line.size, already=True)
        return False
    if copying.gives_up(content.size):
        copying.refused[object.name] = f"not tried, because of what the store said of others: {copying.error}"
        return False
    if key in copying.there and not await _may_replace(copying, object, content, key, line):
        return False
    if content.size >= LARGE_BYTES:
        async with copying.large:
            info = await _put(copying, object, content, key)
    else:
        info = await _put(copying, object, content, key)
    copying.there[key] = info.size
    changed = copying.variant if info.sha256 != sha256_of(content.digest) else None
    await run.journal.moved_soon(_line(item, object, content, key, info, changed))
    _count(copying, object.name, size=info.size)
    return True


async def _may_replace(
    copying: _Copying, object: NatsObject, content: NatsObject, key: str, line: Moved | None
) -> bool:  # fmt: skip
    """Whether the object is still to be put although something lies there; what is no longer to be put is accounted."""
    run = copying.run
    try:
        there = await run.objects.head(key)
    except (ObjectNotFound, ObjectCorrupt):
        return True
    ours = there.metadata.get(MADE_BY) == run.migration
    if not ours:
        copying.refused[object.name] = (
            f"something that this migration did not put lies at {key!r}: move it away, or migrate into another prefix"
        )
        return False
    wanted = describe(details_of(object, content), key, run.migration)
    if line is None and dict(there.metadata) == wanted.metadata and there.sha256 == sha256_of(content.digest):
        # Killed between the put and the journal.
        await run.journal.moved_soon(_line(copying.item, object, content, key, there, None))
        _count(copying, object.name, size=there.size, already=True)
        return False
    return True


async def _put(copying: _Copying, object: NatsObject, content: NatsObject, key: str) -> ObjectInfo:
    run = copying.run
    described = describe(details_of(object, content), key, run.migration)
    if described.beside is not None:
        beside = described.metadata["nats-object-at"]
        await run.making(copying.item, "object", beside)
        await run.objects.put(beside, described.beside, metadata={MADE_BY: run.migration})
    if object.link is not None and object.link[1] is None:  # to a whole bucket: there are no bytes that it leads to
        return await run.objects.put(key, b"", metadata=described.metadata)
    pieces = _pieces(copying, content)
    async with aclosing(pieces):
        if content.size < SMALL_BYTES:
            body = b"".join([piece async for piece in pieces])
            changed = None if copying.change is None else copying.change(object, body)
            if changed is not None:
                return await run.objects.put(key, changed, metadata=described.metadata)
            info = await run.objects.put(key, body, metadata=described.metadata)
        else:
            info = await run.objects.put(key, pieces, metadata=described.metadata)
    expected = sha256_of(content.digest)
    if expected is not None and info.sha256 != expected:
        await run.objects.delete(key)
        raise ObjectCorrupt(
            f"the store took bytes with SHA-256 {info.sha256} for an object that has {expected}: nothing was kept",
            store=run.objects.url, key=key,
        )  # fmt: skip
    return info


async def _pieces(copying: _Copying, content: NatsObject) -> AsyncGenerator[bytes, None]:
    """The object's bytes within the rate; while they are under way they count as done."""
    chunks, taken = read_object(copying.run.server, content), 0
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                await copying.run.limits.pay(len(chunk))
                taken += len(chunk)
                copying.under_way += len(chunk)
                copying.tell()
                yield chunk
    finally:
        copying.under_way -= taken


async def _honour_deletion(copying: _Copying, object: NatsObject, key: str, line: Moved | None) -> bool:
    """Removes the copy of an object that was deleted in the source since, if it is ours."""
    if line is None or line.detail.get("deleted"):
        return False
    if key in copying.there:
        try:
            there = await copying.run.objects.head(key)
        except ObjectNotFound:
            there = None
        if there is not None and there.metadata.get(MADE_BY) == copying.run.migration:
            await copying.run.objects.delete(key)
        copying.there.pop(key, None)
    await copying.run.journal.moved_soon(
        Moved(
            item=copying.item.id, name=object.name, source_seq=object.sequence, target=key, size=0, checksum="",
            detail={"deleted": True},
        )
    )  # fmt: skip
    return True


def _line(
    item: Item, object: NatsObject, content: NatsObject, key: str, info: ObjectInfo, changed: str | None
) -> Moved:  # fmt: skip
    detail: dict[str, JsonValue] = {"nuid": content.nuid, "digest": content.digest}
    if changed is not None:
        detail["changed"] = changed
    return Moved(
        item=item.id, name=object.name, source_seq=object.sequence, target=key, size=info.size, checksum=info.sha256,
        detail=detail,
    )  # fmt: skip


def _count(copying: _Copying, name: str, *, size: int = 0, already: bool = False) -> None:
    if already:
        if name not in copying.done:
            copying.already += 1
            copying.passed += size
    else:
        copying.moved += 1
        copying.bytes += size
    copying.done.add(name)
    copying.tell()
