"""``memory://``: the object store contract in plain data, gone with the process; for tests and demos.

``memory://`` is a store of its own; ``memory://name`` is one store for every handle of this process, in whatever thread
and event loop, and lives while at least one handle is open.  Option ``max_bytes`` (default 1 GiB) bounds all bodies.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping

from dynlog.errors import ConfigurationError
from dynlog.objects import (
    DEFAULT_TIMEOUT_S,
    PIECE_BYTES,
    STALE_AFTER_S,
    Body,
    Collected,
    ObjectInfo,
    ObjectStore,
    Progress,
    check_expiry,
    check_key,
    check_metadata,
    check_range,
)
from dynlog.storage.memory.objects import Description, MemoryBucket
from dynlog.storage.memory.shared import Shared
from dynlog.storage.memory.uploads import MemoryUpload, collect, turn
from dynlog.timing import Clock
from dynlog.uploads import Upload
from dynlog.url import Url, positive, read_options
from dynlog.waits import Waits

DEFAULT_MAX_BYTES = 1 << 30
LISTED_AT_ONCE = 1000

_SHARED: Shared[MemoryBucket] = Shared()


async def open_url(url: Url, clock: Clock) -> ObjectStore:
    """Opens ``memory://`` or ``memory://name``; raises ConfigurationError for anything else in the URL."""
    if url.path.strip("/") or url.port or url.user:
        raise ConfigurationError(f"{url}: memory:// takes at most a name, as in memory://name")
    asked = read_options(url, {"max_bytes": positive}).get("max_bytes")

    def check(found: MemoryBucket) -> None:
        if asked is not None and found.max_bytes != asked:
            raise ConfigurationError(f"{url}: the store is open with max_bytes={found.max_bytes}: leave the option out")

    # A store without a name is one that nobody else can name.
    name = url.host or f"/{uuid.uuid4().hex}"
    return MemoryObjects(
        url, name, _SHARED.enter(name, lambda: MemoryBucket(str(url), asked or DEFAULT_MAX_BYTES), check), clock
    )


class MemoryObjects(ObjectStore):
    """One handle on a memory store."""

    def __init__(self, url: Url, name: str, bucket: MemoryBucket, clock: Clock) -> None:
        self._url = str(url)
        self._name = name
        self._bucket = bucket
        self._clock = clock
        self._waits = Waits(f"the object store {self._url}")

    @property
    def url(self) -> str:
        return self._url

    async def close(self) -> None:
        if await self._waits.close():
            _SHARED.leave(self._name)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        if_absent: bool = False,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> ObjectInfo:
        description = Description(check_key(key), check_metadata(metadata), check_expiry(expires_after_s))
        with self._waits.operation():
            whole = await collect(body, self._waits, self._bucket, key, progress, timeout)
            return self._bucket.put(description, whole, self._clock.time_ms(), if_absent=if_absent)

    async def get(
        self,
        key: str,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[bytes]:
        await turn(self._waits)
        info, body = self._bucket.get(check_key(key), self._clock.time_ms())
        start, stop = check_range(info, start, length)
        for at in range(start, stop, PIECE_BYTES):
            await turn(self._waits)
            end = min(at + PIECE_BYTES, stop)
            yield body[at:end]
            if progress is not None:
                progress(end - start, stop - start)

    async def head(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        await turn(self._waits)
        return self._bucket.get(check_key(key), self._clock.time_ms()).info

    async def list(self, prefix: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ObjectInfo]:
        after = ""
        while True:
            await turn(self._waits)
            page = self._bucket.list_from(prefix, after, LISTED_AT_ONCE, self._clock.time_ms())
            if not page:
                return
            for info in page:
                yield info
            after = page[-1].key

    async def delete(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await turn(self._waits)
        self._bucket.delete(check_key(key))

    async def gc(self, *, older_than_s: float = STALE_AFTER_S, timeout: float = DEFAULT_TIMEOUT_S) -> Collected:
        await turn(self._waits)
        return self._bucket.gc(self._clock.time_ms(), round(older_than_s * 1000))

    async def start_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Upload:
        await turn(self._waits)
        description = Description(check_key(key), check_metadata(metadata), check_expiry(expires_after_s))
        return MemoryUpload(
            self._bucket, self._waits, self._clock, key, self._bucket.start_upload(description, self._clock.time_ms())
        )

    async def resume_upload(self, key: str, upload_id: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Upload:
        await turn(self._waits)
        self._bucket.parts(check_key(key), upload_id)
        return MemoryUpload(self._bucket, self._waits, self._clock, key, upload_id)
