"""Garbage collection: expired objects, notes that no object names, uploads and probes that were left alone for long.

Ages are those by the store's own clock, which everything carries.  An expired object is removed on the condition that
it is still the one that was looked at; MinIO ignores that condition, so it is looked at once more just before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from dynlog.errors import ObjectNotFound
from dynlog.objects import Collected
from dynlog.storage.s3.description import Note, Reference, id_of, info_of
from dynlog.storage.s3.failures import Refused
from dynlog.storage.s3.looking import Found, has_expired, listing, names
from dynlog.storage.s3.upload import ABOUT, UPLOADS, About
from dynlog.storage.s3.work import Work


class Collection:
    """One run of garbage collection."""

    def __init__(self, work: Work, older_than_s: float, timeout: float) -> None:
        self._work = work
        self._timeout = timeout
        self._now_ms = work.clock.time_ms()
        self._stale_ms = self._now_ms - round(older_than_s * 1000)
        self._done = Collected(0, 0, 0)

    async def run(self) -> Collected:
        """Removes what can go and says what did."""
        async for found in listing(self._work, "", self._timeout):
            if has_expired(found.info, self._now_ms):
                await self._expired(found)
        await self._notes()
        await self._uploads()
        await self._probes()
        return self._done

    async def _expired(self, found: Found) -> None:
        key, client = found.info.key, self._work.client
        name = self._work.names.of(key)
        headers = await self._headers(name)
        if headers is None or id_of(headers) != found.id:
            return
        try:
            await self._work.write(f"gc of {key!r}", self._timeout, client.delete, name, {"If-Match": found.etag})
        except Refused as error:
            if error.conflict or error.missing:
                return
            if error.code != "NotImplemented":
                raise self._work.translated(error, key) from error
            await self._ask(client.delete, name)
        self._done = replace(self._done, expired=self._done.expired + 1, bytes=self._done.bytes + found.info.size)

    async def _notes(self) -> None:
        async for page in names(self._work, self._work.names.own("notes", ""), self._timeout):
            for name, size in page:
                try:
                    note = Note.model_validate_json((await self._ask(self._work.client.read, name)).body)
                except (ObjectNotFound, ValidationError):
                    continue
                if note.modified_ms > self._stale_ms:
                    continue
                said = info_of(note.name, 0, await self._headers(note.name) or {})
                if isinstance(said, Reference) and said.note == name:
                    continue
                if note.upload:
                    await self._abort(note)
                await self._remove([(name, size)])
                self._done = replace(self._done, abandoned=self._done.abandoned + 1)

    async def _abort(self, note: Note) -> None:
        try:
            await self._work.write("gc of an upload", self._timeout, self._work.client.abort, note.name, note.upload)
        except Refused as error:
            if not error.missing:
                raise self._work.translated(error, None) from error

    async def _uploads(self) -> None:
        upload: list[tuple[str, int]] = []
        async for page in names(self._work, self._work.names.own(UPLOADS, ""), self._timeout):
            for name, size in page:
                if upload and self._upload_id(upload[0][0]) != self._upload_id(name):
                    await self._upload(upload)
                    upload = []
                upload.append((name, size))
        if upload:
            await self._upload(upload)

    def _upload_id(self, name: str) -> str:
        return name.removeprefix(self._work.names.own(UPLOADS, "")).partition("/")[0]

    async def _upload(self, entries: list[tuple[str, int]]) -> None:
        """Removes an upload whose description and parts are all old."""
        for name, _ in entries:
            if await self._written_ms(name) > self._stale_ms:
                return
        await self._remove(sorted(entries, key=lambda entry: not entry[0].endswith(f"/{ABOUT}")))
        self._done = replace(self._done, abandoned=self._done.abandoned + 1)

    async def _written_ms(self, name: str) -> int:
        """When it was written; 0 if it is gone."""
        try:
            if name.endswith(f"/{ABOUT}"):
                return About.model_validate_json((await self._ask(self._work.client.read, name)).body).begun_ms
            written = (await self._ask(self._work.client.head, name)).get("x-amz-meta-dynlog-modified", "")
            return int(written) if re.fullmatch("[0-9]+", written) else self._now_ms
        except (ObjectNotFound, ValidationError):
            return 0

    async def _probes(self) -> None:
        """A probe lives for moments; who still asks when its object goes asks again."""
        async for page in names(self._work, self._work.names.own("probes", ""), self._timeout):
            for name, _ in page:
                written = (await self._headers(name) or {}).get("x-amz-meta-dynlog-modified", "0")
                if int(written) <= self._stale_ms:
                    await self._remove([(name, 0)])

    async def _remove(self, entries: list[tuple[str, int]]) -> None:
        for name, size in entries:
            await self._ask(self._work.client.delete, name)
            self._done = replace(self._done, bytes=self._done.bytes + size)

    async def _headers(self, name: str) -> Mapping[str, str] | None:
        try:
            found: Mapping[str, str] = await self._ask(self._work.client.head, name)
        except ObjectNotFound:
            return None
        return found

    async def _ask(self, function: Any, *args: Any) -> Any:
        return await self._work.ask("gc", None, self._timeout, function, *args)
