"""``file:///path``: objects as plain files in a folder, durable once put returned, for any number of processes.

The body of ``models/a/config.json`` is the file ``/path/models/a/config.json`` (unless something else has that name),
so other tools can read it; checksums, metadata and expiry lie beside it in ``/path/.dynlog``.  Needs a file system with
atomic rename and flock.  There are no options.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from dynlog.errors import ConfigurationError, ObjectExists, ObjectNotFound
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
from dynlog.storage.files.collection import Collection
from dynlog.storage.files.layout import Layout
from dynlog.storage.files.parts import PartsFolder
from dynlog.storage.files.reading import OpenBody
from dynlog.storage.files.upload import FileUpload
from dynlog.storage.files.vault import Description, Vault, has_expired
from dynlog.storage.files.work import Work
from dynlog.timing import Clock
from dynlog.uploads import Upload
from dynlog.url import Url, read_options

LISTED_AT_ONCE = 200


async def open_url(url: Url, clock: Clock) -> ObjectStore:
    """Opens the folder, making it if need be; raises ConfigurationError if it cannot be written."""
    read_options(url, {})
    if url.host not in ("", "localhost") or url.user or url.port or not url.path.startswith("/"):
        raise ConfigurationError(f"{url}: a file store has an absolute path and no host, as in file:///var/lib/objects")
    work = Work(Vault(Layout(Path(url.path)), str(url)))
    try:
        await work.step(None, DEFAULT_TIMEOUT_S, work.vault.prepare)
    except BaseException:
        await work.close()
        raise
    return FileObjects(work, clock)


class FileObjects(ObjectStore):
    """One handle on a folder of objects."""

    def __init__(self, work: Work, clock: Clock) -> None:
        self._work = work
        self._vault = work.vault
        self._clock = clock
        self._reading: set[OpenBody] = set()

    @property
    def url(self) -> str:
        return self._vault.store

    async def close(self) -> None:
        await self._work.close()
        for body in self._reading:
            body.close()

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
        with self._work.waits.operation():
            if if_absent:
                await self._refuse_if_there(key, timeout)
            draft = self._vault.draft()
            try:
                await self._work.fill(draft, key, body, progress, timeout)
                await self._work.step(key, timeout, draft.sync)
                return await self._work.locked(
                    key, timeout, self._vault.commit, draft, description, self._clock.time_ms(), if_absent=if_absent
                )
            finally:
                await self._work.clean(draft.discard)

    async def _refuse_if_there(self, key: str, timeout: float) -> None:
        """Spares writing a body for nothing; the commit decides."""
        try:
            await self.head(key, timeout=timeout)
        except ObjectNotFound:
            return
        raise ObjectExists("an object is there already", store=self.url, key=key)

    async def get(
        self,
        key: str,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[bytes]:
        body = OpenBody(self._vault, check_key(key))
        self._reading.add(body)
        try:
            info = await self._work.step(key, timeout, body.open, self._clock.time_ms())
            start, stop = check_range(info, start, length)
            for at in range(start, stop, PIECE_BYTES):
                end = min(at + PIECE_BYTES, stop)
                piece = await self._work.step(key, timeout, body.read, at, end - at)
                if start == 0 and end == info.size:
                    body.verify(info)  # before the last piece is handed out
                yield piece
                if progress is not None:
                    progress(end - start, stop - start)
        finally:
            self._reading.discard(body)
            body.close()

    async def head(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        sidecar = await self._work.step(key, timeout, self._vault.sidecar, check_key(key), self._clock.time_ms())
        return sidecar.info

    async def list(self, prefix: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ObjectInfo]:
        entries = self._vault.layout.walk(prefix.encode(errors="surrogatepass"))

        def some() -> list[ObjectInfo | None]:
            found = [self._vault.read_sidecar(*entry) for entry in itertools.islice(entries, LISTED_AT_ONCE)]
            return [None if sidecar is None else sidecar.info for sidecar in found]

        while infos := await self._work.step(None, timeout, some):
            now_ms = self._clock.time_ms()
            for info in infos:
                if info is not None and not has_expired(info, now_ms):
                    yield info

    async def delete(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await self._work.locked(check_key(key), timeout, self._vault.delete, key)

    async def gc(self, *, older_than_s: float = STALE_AFTER_S, timeout: float = DEFAULT_TIMEOUT_S) -> Collected:
        now_ms = self._clock.time_ms()
        collection = Collection(self._vault, now_ms, older_than_s)
        with self._work.waits.operation():
            await self._work.step(None, timeout, collection.start)
            while (expired := await self._work.step(None, timeout, collection.step)) is not None:
                for key in expired:
                    collection.deleted(
                        await self._work.locked(key, timeout, self._vault.delete, key, only_expired_at=now_ms)
                    )
            return await self._work.step(None, timeout, collection.finish)

    async def start_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Upload:
        description = Description(check_key(key), check_metadata(metadata), check_expiry(expires_after_s))
        folder = PartsFolder(self._vault, key)
        with self._work.waits.operation():
            try:
                await self._work.step(key, timeout, folder.start, description)
            except BaseException:
                await self._work.clean(folder.remove)
                raise
        return FileUpload(self._work, self._clock, folder)

    async def resume_upload(self, key: str, upload_id: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Upload:
        folder = PartsFolder(self._vault, check_key(key), upload_id)
        await self._work.step(key, timeout, folder.describe)
        return FileUpload(self._work, self._clock, folder)
