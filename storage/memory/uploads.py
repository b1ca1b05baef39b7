"""Taking bodies in, and uploads in parts, of a memory store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from dynlog.bodies import pieces_of
from dynlog.errors import ObjectCorrupt
from dynlog.objects import PIECE_BYTES, Body, ObjectInfo, Progress
from dynlog.storage.memory.objects import MemoryBucket
from dynlog.timing import Clock
from dynlog.uploads import DEFAULT_TIMEOUT_S, Part, Upload, check_part_number, check_parts
from dynlog.waits import Waits


async def turn(waits: Waits) -> None:
    """Lets other tasks have their turn (a loop of calls must not keep the event loop to itself); raises Closed."""
    waits.check()
    await asyncio.sleep(0)
    waits.check()


async def collect(
    body: Body, waits: Waits, bucket: MemoryBucket, key: str, progress: Progress | None, timeout: float
) -> bytes:
    """The whole body, refused as soon as it cannot fit."""
    whole = bytearray()
    total = len(body) if isinstance(body, bytes) else None
    pieces = pieces_of(body, waits, piece_bytes=PIECE_BYTES, timeout=timeout, doing=f"put of {key!r}")
    async with aclosing(pieces):
        async for piece in pieces:
            await turn(waits)
            bucket.check_room(len(whole) + len(piece), key)
            whole += piece
            if progress is not None:
                progress(len(whole), total)
    await turn(waits)
    return bytes(whole)


class MemoryUpload(Upload):
    """An upload in parts to a memory store."""

    def __init__(self, bucket: MemoryBucket, waits: Waits, clock: Clock, key: str, upload_id: str) -> None:
        self._bucket = bucket
        self._waits = waits
        self._clock = clock
        self._key = key
        self._upload_id = upload_id

    @property
    def key(self) -> str:
        return self._key

    @property
    def upload_id(self) -> str:
        return self._upload_id

    @property
    def min_part_bytes(self) -> int:
        return 1

    async def parts(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Part]:
        await turn(self._waits)
        return self._bucket.parts(self._key, self._upload_id)

    async def put_part(
        self, number: int, data: Body, *, progress: Progress | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Part:
        check_part_number(number)
        with self._waits.operation():
            self._bucket.parts(self._key, self._upload_id)
            whole = await collect(data, self._waits, self._bucket, self._key, progress, timeout)
            return self._bucket.put_part(self._key, self._upload_id, number, whole, self._clock.time_ms())

    async def complete(self, *, sha256: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        await turn(self._waits)
        check_parts(self._key, self._bucket.parts(self._key, self._upload_id), self.min_part_bytes)
        info = self._bucket.complete(self._key, self._upload_id, sha256, self._clock.time_ms())
        if info is None:
            raise ObjectCorrupt(f"the parts do not make a body of SHA-256 {sha256}", key=self._key)
        return info

    async def abort(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await turn(self._waits)
        self._bucket.drop_upload(self._upload_id)
