"""Whether the server keeps conditions on writes: tried once per open store, because one that does not ignores them.

Amazon S3, MinIO and Ceph have them; what does not would let two creators both win, so `if_absent` is refused there.
"""

from __future__ import annotations

import asyncio

from dynlog.errors import ConfigurationError
from dynlog.storage.s3.description import new_id
from dynlog.storage.s3.failures import Refused
from dynlog.storage.s3.work import Work

ABSENT = {"If-None-Match": "*"}


class Conditions:
    """What was found out about one server."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._kept: bool | None = None
        self._asking = asyncio.Lock()

    async def check(self, timeout: float) -> None:
        """Raises ConfigurationError if `if_absent` cannot be kept here."""
        async with self._asking:
            if self._kept is None:
                self._kept = await self._find_out(timeout)
        if not self._kept:
            raise ConfigurationError(
                f"if_absent cannot be promised by {self._work.client.location.endpoint}: it ignores If-None-Match on "
                "writes; use a server that has conditional writes (Amazon S3, MinIO, Ceph)"
            )

    async def _find_out(self, timeout: float) -> bool:
        work, client = self._work, self._work.client
        name = work.names.own("probes", new_id())

        async def refuses(function: object, *args: object) -> bool:
            try:
                await work.ask_raw("a probe for conditional writes", timeout, function, *args)  # type: ignore[arg-type]
            except Refused as error:
                return error.conflict
            return False

        written = {"x-amz-meta-dynlog-modified": str(work.clock.time_ms())}
        await work.ask("a probe for conditional writes", None, timeout, client.put, name, b"", written)
        try:
            if not await refuses(client.put, name, b"", ABSENT):
                return False
            upload = await work.ask("a probe", None, timeout, client.start_multipart, name, {})
            try:
                etag = await work.ask("a probe", None, timeout, client.put_part, name, upload, 1, b"x")
                return await refuses(client.complete, name, upload, {1: etag}, ABSENT)
            finally:
                await work.clean(client.abort, name, upload)
        finally:
            await work.clean(client.delete, name)
