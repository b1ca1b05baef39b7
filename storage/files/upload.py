"""An upload in parts to a folder."""

from __future__ import annotations

from itertools import islice

from dynlog.errors import ObjectCorrupt
from dynlog.objects import Body, ObjectInfo, Progress
from dynlog.storage.files.parts import PartsFolder
from dynlog.storage.files.work import Work
from dynlog.timing import Clock
from dynlog.uploads import DEFAULT_TIMEOUT_S, Part, Upload, check_part_number, check_parts


class FileUpload(Upload):
    """Keeps its parts in the store's folder until the upload is completed, aborted or collected."""

    def __init__(self, work: Work, clock: Clock, folder: PartsFolder) -> None:
        self._work = work
        self._clock = clock
        self._folder = folder

    @property
    def key(self) -> str:
        return self._folder.key

    @property
    def upload_id(self) -> str:
        return self._folder.upload_id

    @property
    def min_part_bytes(self) -> int:
        return 1

    async def parts(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Part]:
        return await self._work.step(self.key, timeout, self._folder.parts)

    async def put_part(
        self, number: int, data: Body, *, progress: Progress | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Part:
        check_part_number(number)
        with self._work.waits.operation():
            await self._work.step(self.key, timeout, self._folder.describe)
            draft = self._folder.draft()
            try:
                await self._work.fill(draft, self.key, data, progress, timeout)
                return await self._work.step(self.key, timeout, self._folder.keep, draft, number)
            finally:
                await self._work.clean(draft.discard)

    async def complete(self, *, sha256: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        with self._work.waits.operation():
            work, vault = self._work, self._work.vault
            description = await work.step(self.key, timeout, self._folder.describe)
            parts = await self.parts(timeout=timeout)
            check_parts(self.key, parts, self.min_part_bytes)
            draft = vault.draft()
            try:
                await work.step(self.key, timeout, draft.open)
                for part in parts:
                    copying = self._folder.copy(part, draft)
                    while await work.step(self.key, timeout, list, islice(copying, 1)):
                        pass
                if sha256 is not None and draft.sha256 != sha256:
                    raise ObjectCorrupt(
                        f"the parts make a body of SHA-256 {draft.sha256}, not {sha256}",
                        store=vault.store,
                        key=self.key,
                    )
                await work.step(self.key, timeout, draft.sync)
                info = await work.locked(
                    self.key, timeout, vault.commit, draft, description, self._clock.time_ms(), if_absent=False
                )
            finally:
                await work.clean(draft.discard)
            await work.step(self.key, timeout, self._folder.remove)
            return info

    async def abort(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await self._work.step(self.key, timeout, self._folder.remove)
