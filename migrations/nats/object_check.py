"""Compares a bucket with its copy, byte for byte by digest, and takes a copy back; neither looks at the other's word.

What a comparison reads of the target it hashes itself; what a removal removes carries this migration's name and the
checksum with which it was put.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing

from dynlog.adapters.nats.objects import NatsObject, ObjectBucket, list_objects, read_object, resolve_link
from dynlog.errors import DynlogError, LogError, ObjectCorrupt, ObjectNotFound, SourceUnavailable
from dynlog.migrations.nats.contract import MADE_BY, Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.keys import key_of
from dynlog.migrations.nats.object_copy import SMALL_BYTES, Change
from dynlog.migrations.nats.object_details import DETAILS_AT, details_of, read_details, sha256_of


async def compare_bucket(
    item: Item,
    bucket: ObjectBucket,
    run: Run,
    prefix: str,
    change: Change | None = None,
    besides: frozenset[str] = frozenset(),
) -> list[Difference]:
    """What differs; keys in ``besides`` may lie in the target without an object of their own in the source."""
    found: list[Difference] = []
    objects = await list_objects(run.server, bucket)
    keys: set[str] = set()
    checked = 0

    async def check(waiting: Iterator[NatsObject]) -> None:
        nonlocal checked
        for object in waiting:
            try:
                what = await _compare(object, run, prefix, change, keys)
            except (LogError, SourceUnavailable):
                raise
            except DynlogError as error:
                what = str(error)
            if what:
                found.append(Difference(name=object.name, what=what))
            checked += 1
            run.progress(item, checked, 0)

    waiting = iter(objects)
    await _together(check(waiting) for _ in range(min(run.limits.concurrency, len(objects))))
    found += [
        Difference(name=info.key, what="it lies in the target and not in the source")
        async for info in run.objects.list(f"{prefix}/{bucket.name}/")
        if info.key not in keys and info.key not in besides
    ]
    return sorted(found, key=lambda difference: difference.name)


async def _compare(
    object: NatsObject, run: Run, prefix: str, change: Change | None, keys: set[str]
) -> str:  # fmt: skip
    """What is wrong with the object's copy; nothing if that is empty."""
    if object.problem:
        return object.problem
    if object.deleted:
        return ""
    key = key_of(prefix, object.bucket, object.name)
    keys.add(key)
    content = object
    if object.link is not None and object.link[1] is not None:
        content = await resolve_link(run.server, object)
    try:
        info = await run.objects.head(key)
        details = await read_details(run.objects, info)
        size, sha256 = await _hashed(run, run.objects.get(key))
    except ObjectNotFound:
        return "it is not in the target"
    except ObjectCorrupt as error:
        return str(error)
    if details is None:
        return "its copy does not say what it is a copy of"
    if details != details_of(object, content):
        return (
            "name, description, headers, metadata, time or digest are not the source's: it changed since; apply again"
        )
    expected = await _expected(run, object, content, change)
    if (size, sha256) != expected:
        return f"{size} bytes with SHA-256 {sha256}, the source has {expected[0]} with {expected[1]}"
    return ""


async def _expected(
    run: Run, object: NatsObject, content: NatsObject, change: Change | None
) -> tuple[int, str]:  # fmt: skip
    """Size and digest that the copy is to have."""
    if object.link is not None and object.link[1] is None:
        return 0, hashlib.sha256(b"").hexdigest()
    digest = sha256_of(content.digest)
    if digest is not None and (change is None or content.size >= SMALL_BYTES):
        return content.size, digest
    if change is None:
        return await _hashed(run, read_object(run.server, content))
    pieces = read_object(run.server, content)
    async with aclosing(pieces):
        body = b"".join([piece async for piece in pieces])
    changed = change(object, body)
    body = body if changed is None else changed
    return len(body), hashlib.sha256(body).hexdigest()


async def _hashed(run: Run, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    async for piece in pieces:
        await run.limits.pay(len(piece))
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


async def remove_copies(item: Item, run: Run) -> Outcome:
    """Removes what the journal says was put for the item and nobody replaced since; the rest is named and stays."""
    lines = {line.target: line for line in run.journal.lines(item.id).values()}
    removed = size = 0
    refused: list[Refusal] = []
    keys = [info.key async for key in _prefixes(item, run) async for info in run.objects.list(key)]
    for key in (*keys, *run.journal.made(item.id, "object")):
        try:
            info = await run.objects.head(key)
        except ObjectNotFound:
            continue
        except ObjectCorrupt as error:
            refused.append(Refusal(name=key, why=f"it cannot be told whose it is, so it stays: {error}"))
            continue
        if info.metadata.get(MADE_BY) != run.migration:
            continue
        line = lines.get(key)
        if line is not None and line.checksum != info.sha256:
            refused.append(Refusal(name=key, why="it was changed since it was put there, so it stays"))
            continue
        await run.objects.delete(key)
        removed, size = removed + 1, size + info.size
        if DETAILS_AT in info.metadata:
            await run.objects.delete(info.metadata[DETAILS_AT])
        run.progress(item, removed, size)
    return Outcome(item=item.id, moved=removed, bytes=size, refused=tuple(refused))


async def _prefixes(item: Item, run: Run) -> AsyncIterator[str]:
    for prefix in run.journal.made(item.id, "objects"):
        yield prefix


async def _together(jobs: Iterable[object]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)  # type: ignore[arg-type]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
