"""``s3://bucket/prefix``: objects in a bucket of any S3 server, for any number of processes and machines.

``s3://user:password@bucket/prefix?endpoint=http://host:port&region=us-east-1&ca=/path.pem``; what the URL leaves out
comes from AWS's environment variables (see `dynlog.storage.s3.location`).  Bodies lie under names that other tools can
read (`dynlog.storage.s3.names`), each with its SHA-256; durable as the server makes it before it answers.

Two limits are the server's.  MinIO lets a put wait, up to 30 s, for whoever has begun to read the old body and reads no
further.  And a request whose connection broke may still take effect after it was repeated: who puts one key again and
again through a broken network can find the body before the last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from dynlog.errors import ConfigurationError, DeadlineExceeded, ObjectStoreUnavailable
from dynlog.objects import (
    DEFAULT_TIMEOUT_S,
    STALE_AFTER_S,
    Body,
    Collected,
    ObjectInfo,
    ObjectStore,
    Progress,
    check_expiry,
    check_key,
    check_metadata,
)
from dynlog.storage.s3.collection import Collection
from dynlog.storage.s3.description import new_id
from dynlog.storage.s3.failures import FORBIDDEN, Refused
from dynlog.storage.s3.location import locate
from dynlog.storage.s3.looking import check_there, has_expired, listing, look
from dynlog.storage.s3.probe import Conditions
from dynlog.storage.s3.reading import OpenBody
from dynlog.storage.s3.upload import S3Upload
from dynlog.storage.s3.work import Work
from dynlog.storage.s3.writing import Wanted, store_body
from dynlog.timing import Clock
from dynlog.uploads import Upload
from dynlog.url import Url

OPEN_TIMEOUT_S = 12.0
"""A little more than a request that fails is tried again."""


async def open_url(url: Url, clock: Clock) -> ObjectStore:
    """Opens the store; raises ConfigurationError if there is no such bucket or the server does not know the user.

    A user who may not list may still be one who may get, so that alone is no reason to refuse.
    """
    work = Work(locate(url), str(url), clock)
    try:
        with work.translating(None):
            await work.ask_raw("opening", OPEN_TIMEOUT_S, work.client.page, work.names.prefix, None, 1)
    except ConfigurationError as error:
        if not (isinstance(error.__cause__, Refused) and error.__cause__.code in FORBIDDEN):
            await work.close()
            raise
    except DeadlineExceeded:
        await work.close()
        raise ObjectStoreUnavailable(
            f"{work.client.location.endpoint} took a connection and did not answer for {OPEN_TIMEOUT_S:g} s: is it an "
            "S3 server, is it well, does it speak TLS (endpoint=https://...)?",
            store=work.store,
        ) from None
    except BaseException:
        await work.close()
        raise
    return S3Objects(work)


class S3Objects(ObjectStore):
    """One handle on a part of a bucket."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._conditions = Conditions(work)
        self._reading: set[OpenBody] = set()

    @property
    def url(self) -> str:
        return self._work.store

    async def close(self) -> None:
        await self._work.close()
        for body in list(self._reading):
            await body.end()

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
        wanted = Wanted(
            self._work.names.of(key), key, check_metadata(metadata), check_expiry(expires_after_s), if_absent
        )
        with self._work.translating(key):
            return await store_body(self._work, self._conditions, wanted, body, progress, timeout)

    def get(
        self,
        key: str,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[bytes]:
        return OpenBody(self._work, key, self._reading).pieces(start, length, progress, timeout)

    async def head(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        found = await look(self._work, self._work.names.of(key), key, timeout)
        return check_there(self._work, found).info

    async def list(self, prefix: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ObjectInfo]:
        found_here = listing(self._work, prefix, timeout)
        async with aclosing(found_here):
            async for found in found_here:
                if not has_expired(found.info, self._work.clock.time_ms()):
                    yield found.info

    async def delete(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        name = self._work.names.of(key)
        with self._work.translating(key):
            await self._work.write(f"delete of {key!r}", timeout, self._work.client.delete, name)

    async def gc(self, *, older_than_s: float = STALE_AFTER_S, timeout: float = DEFAULT_TIMEOUT_S) -> Collected:
        with self._work.waits.operation(), self._work.translating(None):
            return await Collection(self._work, older_than_s, timeout).run()

    async def start_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Upload:
        upload = S3Upload(self._work, self._conditions, check_key(key), new_id(), new=True)
        await upload.begin(check_metadata(metadata), check_expiry(expires_after_s), timeout)
        return upload

    async def resume_upload(self, key: str, upload_id: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Upload:
        upload = S3Upload(self._work, self._conditions, check_key(key), upload_id, new=False)
        await upload.about(timeout)
        return upload
