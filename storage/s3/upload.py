"""An upload in parts: each part is an object of the store's own until the server itself makes the whole of them.

S3's multipart upload cannot show its parts before it is completed, so neither they nor the whole could be verified in
time, and its headers are fixed before the whole's SHA-256 is known.  Parts as objects can be read back, also by another
process, and are put together by UploadPartCopy: no byte goes over the network again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectNotFound
from dynlog.objects import Body, ObjectInfo, Progress
from dynlog.storage.s3.description import Note, headers_of, id_of, new_id
from dynlog.storage.s3.digest import BodyDigest
from dynlog.storage.s3.failures import Refused
from dynlog.storage.s3.looking import Found, is_there, look_together, names
from dynlog.storage.s3.parcels import PARCEL_BYTES
from dynlog.storage.s3.probe import Conditions
from dynlog.storage.s3.reading import OpenBody
from dynlog.storage.s3.work import Window, Work
from dynlog.storage.s3.writing import Wanted, store_body
from dynlog.uploads import DEFAULT_TIMEOUT_S, Part, Upload, check_part_number, check_parts

COPIES_AT_ONCE = 4
MOST_COPIED = 5 << 30
UPLOADS = "uploads"
ABOUT = "about"


class About(BaseModel):
    """What was said when the upload began."""

    version: int = 1
    key: str
    metadata: dict[str, str] = {}
    expires_after_s: float | None = None
    begun_ms: int


class _Whole(NamedTuple):
    """The digest of parts 1 to n as this process put them, with what each was."""

    digest: BodyDigest
    sums: list[str]


class S3Upload(Upload):
    """Keeps its parts in the bucket until it is completed, aborted or collected."""

    def __init__(self, work: Work, conditions: Conditions, key: str, upload_id: str, *, new: bool) -> None:
        self._work = work
        self._conditions = conditions
        self._key = key
        self._upload_id = upload_id
        self._about = work.names.own(UPLOADS, upload_id, ABOUT)
        # Only who puts all parts in order, and each once, knows the whole's digest without reading it back.
        self._whole = _Whole(BodyDigest(), []) if new else None

    @property
    def key(self) -> str:
        return self._key

    @property
    def upload_id(self) -> str:
        return self._upload_id

    @property
    def min_part_bytes(self) -> int:
        return PARCEL_BYTES

    async def begin(self, metadata: Mapping[str, str], expires_after_s: float | None, timeout: float) -> None:
        """Writes down what the upload is for; raises ConfigurationError if the key makes no name."""
        self._work.names.of(self._key)
        about = About(
            key=self._key, metadata=dict(metadata), expires_after_s=expires_after_s, begun_ms=self._work.clock.time_ms()
        )
        body = about.model_dump_json().encode()
        with self._work.translating(self._key):
            await self._work.write(f"upload of {self._key!r}", timeout, self._work.client.put, self._about, body, {})

    async def about(self, timeout: float) -> About:
        """What the upload is for; raises ObjectNotFound unless it is one of this key and under way."""
        if re.fullmatch("[0-9a-f]{32}", self._upload_id):
            try:
                found = await self._ask(timeout, self._work.client.read, self._about)
                about = About.model_validate_json(found.body)
                if about.key == self._key:
                    return about
            except (ObjectNotFound, ValidationError):
                pass
        raise ObjectNotFound(
            f"no upload {self._upload_id[:80]!r} of this key: it was completed, aborted or collected, or never begun",
            store=self._work.store, key=self._key,
        )  # fmt: skip

    async def parts(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Part]:
        await self.about(timeout)
        return [_part(found) for found in await self._found(timeout)]

    async def put_part(
        self, number: int, data: Body, *, progress: Progress | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Part:
        check_part_number(number)
        work = self._work
        with work.waits.operation(), work.translating(self._key):
            if not await is_there(work, self._about, timeout):
                await self.about(timeout)
            whole, self._whole = self._whole, None
            next_one = whole is not None and number == len(whole.sums) + 1
            also = whole.digest.copy() if whole is not None and next_one else None
            wanted = Wanted(self._part_name(number), f"{self._key}, part {number}", {})
            info = await store_body(work, self._conditions, wanted, data, progress, timeout, also)
            if whole is not None and also is not None:
                self._whole = _Whole(also, [*whole.sums, info.sha256])
            return Part(number, info.size, info.sha256)

    async def complete(self, *, sha256: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        work = self._work
        with work.waits.operation(), work.translating(self._key):
            about = await self.about(timeout)
            found = await self._found(timeout)
            parts = [_part(part) for part in found]
            check_parts(self._key, parts, self.min_part_bytes)
            if any(part.size > MOST_COPIED for part in parts):
                raise ConfigurationError(
                    f"the upload of {self._key!r} has a part over 5 GiB, S3's bound: put smaller ones"
                )
            digest = await self._digest(parts, timeout)
            if sha256 is not None and digest.sha256 != sha256:
                raise ObjectCorrupt(
                    f"the parts make a body of SHA-256 {digest.sha256}, not {sha256}", store=work.store, key=self._key
                )
            wanted = Wanted(work.names.of(self._key), self._key, about.metadata, about.expires_after_s)
            info = await self._assemble(wanted, found, digest, timeout)
            await self._forget(timeout)
            return info

    async def abort(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        with self._work.waits.operation():
            await self._forget(timeout)

    async def _found(self, timeout: float) -> list[Found]:
        """The parts as objects, by number."""
        entries = [entry async for page in names(self._work, self._part_name(None), timeout) for entry in page]
        return await look_together(self._work, [(name, name.rpartition("/")[2]) for name, _ in entries], timeout)

    async def _digest(self, parts: list[Part], timeout: float) -> BodyDigest:
        """The whole's digest, from what was put if that is known, else by reading it back."""
        whole = self._whole
        if whole is not None and whole.sums == [part.sha256 for part in parts]:
            return whole.digest
        digest = BodyDigest()
        for part in parts:
            body = OpenBody(self._work, f"{self._key}, part {part.number}", set(), self._part_name(part.number))
            async with aclosing(body.pieces(0, None, None, timeout)) as pieces:
                async for piece in pieces:
                    await self._work.compute(digest.update, piece)
        return digest

    async def _assemble(self, wanted: Wanted, found: list[Found], digest: BodyDigest, timeout: float) -> ObjectInfo:
        """Has the server put the parts together under the name."""
        work, client, object_id = self._work, self._work.client, new_id()
        size = sum(part.info.size for part in found)
        info = wanted.info(size, digest.sha256, work.clock.time_ms())
        headers = headers_of(info, digest.xxh3, object_id)
        if headers is None:
            raise ConfigurationError(
                f"the metadata of the upload of {self._key!r} are over S3's 2 KB with what dynlog adds: shorten them"
            )
        if not size:
            await self._commit(wanted, object_id, timeout, client.put, wanted.name, b"", headers)
            return info
        upload = await self._ask(timeout, client.start_multipart, wanted.name, headers)
        note = Note(name=wanted.name, upload=upload, modified_ms=info.modified_ms)  # what a crash leaves
        note_name = work.names.own("notes", object_id)
        await self._ask(timeout, client.put, note_name, note.model_dump_json().encode(), {})
        try:
            async with Window[str](COPIES_AT_ONCE) as window:
                for number, part in enumerate(found, 1):
                    source = self._part_name(number)
                    await window.add(
                        self._ask(timeout, client.copy_part, wanted.name, upload, number, source, part.etag)
                    )
                etags = dict(enumerate(await window.rest(), 1))
        except BaseException:
            await work.clean(client.abort, wanted.name, upload)
            raise
        await self._commit(wanted, object_id, timeout, client.complete, wanted.name, upload, etags, {})
        await work.clean(client.delete, note_name)
        return info

    async def _commit(self, wanted: Wanted, object_id: str, timeout: float, function: Any, *args: Any) -> None:
        try:
            await self._work.write(f"complete of {self._key!r}", timeout, function, *args)
        except Refused as error:
            # Of a request that was sent twice the first may have done it, its answer being lost.
            headers = await self._ask(timeout, self._work.client.head, wanted.name) if error.missing else {}
            if id_of(headers) != object_id:
                raise self._work.translated(error, self._key) from error

    async def _forget(self, timeout: float) -> None:
        """Removes what the upload consists of, first what makes it one."""
        await self._ask(timeout, self._work.client.delete, self._about)
        prefix = self._work.names.own(UPLOADS, self._upload_id, "")
        async for page in names(self._work, prefix, timeout):
            async with Window[None](COPIES_AT_ONCE) as window:
                for name, _ in page:
                    await window.add(self._ask(timeout, self._work.client.delete, name))
                await window.rest()

    def _part_name(self, number: int | None) -> str:
        return self._work.names.own(UPLOADS, self._upload_id, "parts", "" if number is None else f"{number:05}")

    async def _ask(self, timeout: float, function: Any, *args: Any) -> Any:
        return await self._work.ask(f"upload of {self._key!r}", self._key, timeout, function, *args)


def _part(found: Found) -> Part:
    return Part(int(found.info.key), found.info.size, found.info.sha256)
