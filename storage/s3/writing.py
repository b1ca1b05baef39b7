"""How an object comes to be: in one request if one carries it, else in parts, and in both cases all at once.

In parts: the note is written as a mark of what is under way, the parts are put, the note is written again with the
SHA-256, then the upload is completed, and only that makes the object appear.  What a crash leaves, the note names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from dynlog.errors import ConfigurationError, ObjectExists, ObjectNotFound, ObjectStoreUnavailable
from dynlog.objects import Body, ObjectInfo, Progress
from dynlog.storage.s3.description import Note, headers_naming, headers_of, id_of, new_id
from dynlog.storage.s3.digest import BodyDigest
from dynlog.storage.s3.failures import Refused
from dynlog.storage.s3.looking import has_expired, look
from dynlog.storage.s3.parcels import parcels_of
from dynlog.storage.s3.probe import Conditions
from dynlog.storage.s3.work import Window, Work
from dynlog.uploads import MAX_PARTS

PARTS_AT_ONCE = 4
MOST_UNDER_WAY = 64 << 20
"""Fewer parts go at once where so many bytes would be under way: parts grow with the body."""
ATTEMPTS = 5
ABSENT = {"If-None-Match": "*"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be stored under which name."""

    name: str
    key: str
    metadata: Mapping[str, str]
    expires_after_s: float | None = None
    if_absent: bool = False

    def info(self, size: int, sha256: str, now_ms: int) -> ObjectInfo:
        """The object as it will be."""
        expires = None if self.expires_after_s is None else now_ms + round(self.expires_after_s * 1000)
        return ObjectInfo(self.key, size, sha256, now_ms, self.metadata, expires)


async def store_body(
    work: Work, conditions: Conditions, wanted: Wanted, body: Body, progress: Progress | None, timeout: float,
    also: BodyDigest | None = None,
) -> ObjectInfo:  # fmt: skip
    """Stores the body; ``also`` is a second hash that is told all bytes."""
    with work.waits.operation():
        if wanted.if_absent:
            await conditions.check(timeout)
            await _refuse_if_there(work, wanted, timeout)
        total = len(body) if isinstance(body, bytes) else None
        writing = _Writing(work, wanted, progress, total, timeout, also)
        parcels = parcels_of(body, work.waits, timeout=timeout, doing=f"put of {wanted.key!r}")
        try:
            async with aclosing(parcels), Window[None](PARTS_AT_ONCE) as window:
                first = await anext(parcels)
                second = await anext(parcels, None)
                if second is None:
                    return await writing.whole(first)
                await writing.part(window, first)
                await writing.part(window, second)
                async for parcel in parcels:
                    await writing.part(window, parcel)
                await window.rest()
            return await writing.complete()
        except BaseException:
            await writing.give_up()
            raise


async def _refuse_if_there(work: Work, wanted: Wanted, timeout: float) -> None:
    """Spares sending a body for nothing; the condition on the request decides."""
    try:
        found = await look(work, wanted.name, wanted.key, timeout)
    except ObjectNotFound:
        return
    if not has_expired(found.info, work.clock.time_ms()):
        raise ObjectExists("an object is there already", store=work.store, key=wanted.key)


class _Writing:
    """One body on its way."""

    def __init__(
        self, work: Work, wanted: Wanted, progress: Progress | None, total: int | None, timeout: float,
        also: BodyDigest | None,
    ) -> None:  # fmt: skip
        self._work = work
        self._wanted = wanted
        self._progress = progress
        self._total = total
        self._timeout = timeout
        self._digest = BodyDigest()
        self._also = also
        self._id = new_id()
        self._note = work.names.own("notes", self._id)
        self._begun_ms = work.clock.time_ms()
        self._upload: str | None = None
        self._committing = False
        self._etags: dict[int, str] = {}
        self._parts = 0
        self._size = 0
        self._done = 0

    async def part(self, window: Window[None], parcel: memoryview) -> None:
        """Takes the next parcel; returns once there is room for it under way."""
        if self._upload is None:
            await self._begin()
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ConfigurationError(f"object {self._wanted.key!r} is larger than the 5 TiB that S3 takes")
        await self._take(parcel)
        window.width = max(1, min(PARTS_AT_ONCE, MOST_UNDER_WAY // len(parcel)))
        await window.add(self._send(self._parts, parcel))

    async def _begin(self) -> None:
        info = self._wanted.info(0, "", self._begun_ms)
        self._upload = await self._ask(
            self._work.client.start_multipart, self._wanted.name, headers_naming(self._note, info, self._id)
        )
        await self._write_note(info)

    async def _write_note(self, info: ObjectInfo) -> None:
        note = Note(
            name=self._wanted.name, upload=self._upload or "", modified_ms=info.modified_ms, size=info.size,
            sha256=info.sha256, xxh3=self._digest.xxh3 if info.sha256 else "", expires_ms=info.expires_ms,
            metadata=dict(info.metadata),
        )  # fmt: skip
        await self._ask(self._work.client.put, self._note, note.model_dump_json().encode(), {})

    async def _take(self, parcel: memoryview) -> None:
        self._size += len(parcel)
        for digest in (self._digest, self._also):
            if digest is not None:
                await self._work.compute(digest.update, parcel)

    async def _send(self, number: int, parcel: memoryview) -> None:
        self._etags[number] = await self._ask(
            self._work.client.put_part, self._wanted.name, self._upload or "", number, parcel
        )
        size = len(parcel)
        parcel.release()  # the thread that sent it holds it for a while yet, and there may be no room for one more
        self._tell(size)

    async def whole(self, parcel: memoryview) -> ObjectInfo:
        """Stores a body that one request carries."""
        await self._take(parcel)
        info = self._wanted.info(self._size, self._digest.sha256, self._work.clock.time_ms())
        headers = headers_of(info, self._digest.xxh3, self._id)
        if headers is None:
            await self._write_note(info)
            headers = headers_naming(self._note, info, self._id)
        await self._commit(lambda condition: self._work.client.put(self._wanted.name, parcel, headers | condition))
        self._tell(len(parcel))
        return info

    async def complete(self) -> ObjectInfo:
        """Makes the parts the object."""
        info = self._wanted.info(self._size, self._digest.sha256, self._work.clock.time_ms())
        await self._write_note(info)
        client, upload = self._work.client, self._upload or ""
        await self._commit(lambda condition: client.complete(self._wanted.name, upload, self._etags, condition))
        return info

    async def _commit(self, request: Any) -> None:
        """Makes the object appear, on the condition that was asked for; raises ObjectExists."""
        condition: Mapping[str, str] = ABSENT if self._wanted.if_absent else {}
        for _ in range(ATTEMPTS):
            self._committing = True
            try:
                await self._work.write(f"put of {self._wanted.key!r}", self._timeout, request, condition)
                return
            except Refused as error:
                self._committing = error.transient
                if not (error.conflict or error.code == "NoSuchUpload"):
                    raise self._work.translated(error, self._wanted.key) from error
                # Of a request that was sent twice the first may have done it, its answer being lost.
                headers = await self._headers()
                if headers is not None and id_of(headers) == self._id:
                    return
                if not error.conflict:
                    raise ObjectStoreUnavailable(
                        "the upload is gone: it was collected as abandoned, or completed without an answer and "
                        "replaced by another put since; put it again",
                        store=self._work.store, key=self._wanted.key,
                    ) from error  # fmt: skip
                condition = await self._next_condition(headers)
        raise ObjectStoreUnavailable("others keep changing it", store=self._work.store, key=self._wanted.key)

    async def _headers(self) -> Mapping[str, str] | None:
        try:
            found: Mapping[str, str] = await self._ask(self._work.client.head, self._wanted.name)
        except ObjectNotFound:
            return None
        return found

    async def _next_condition(self, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        """What to try after the object was found to be there, which an expired one is not."""
        if headers is None:
            return ABSENT
        await _refuse_if_there(self._work, self._wanted, self._timeout)
        return {"If-Match": headers.get("etag", "")}

    async def give_up(self) -> None:
        """Frees what a failed put has left, as far as that can be done now.

        Not once the object may appear by a request that nobody waits for any more: it would be without its note, and
        MinIO does not keep an abort apart from a completion that is under way.  That is for garbage collection.
        """
        if self._upload is not None and not self._committing:
            await self._work.clean(self._free, self._upload)

    def _free(self, upload: str) -> None:
        try:
            self._work.client.abort(self._wanted.name, upload)
        except Refused as error:
            if not error.missing:
                return
        self._work.client.delete(self._note)

    def _tell(self, size: int) -> None:
        self._done += size
        if self._progress is not None and (size or self._total == 0):
            self._progress(self._done, self._total)

    async def _ask(self, function: Any, *args: Any) -> Any:
        key = self._wanted.key
        return await self._work.ask(f"put of {key!r}", key, self._timeout, function, *args)
