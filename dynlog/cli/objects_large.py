"""A large file on its way into a store: in parts, and what arrived before an interruption is not sent again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple, Self

from dynlog.blocking import BlockingPool
from dynlog.cli.objects_place import Place
from dynlog.cli.output import say
from dynlog.errors import ConfigurationError, ObjectNotFound
from dynlog.objects import PIECE_BYTES, ObjectInfo, ObjectStore
from dynlog.uploads import Part, Upload

LARGE = 64 << 20
"""A file from this size on goes in parts of this size, or larger ones if they would be too many."""
MOST_PARTS = 5000
COMPLETING_S = 3600.0
"""How long a store may take for each step of putting the parts together."""


class LargeFile(NamedTuple):
    """A file as it was when the upload began."""

    path: Path
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is; raises ConfigurationError if it cannot be read."""
        try:
            state = path.stat()
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
        if not stat.S_ISREG(state.st_mode):
            raise ConfigurationError(f"{path} is no file: give what comes out of it to stdin, and - as the source")
        return cls(path, state.st_size, state.st_mtime_ns)

    @property
    def part_bytes(self) -> int:
        """The size of every part but the last."""
        return max(LARGE, -(-self.size // MOST_PARTS))

    def read(self, at: int, most: int) -> bytes:
        """Some of its bytes; raises ConfigurationError if it has become shorter or cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(at)
                piece = file.read(most)
        except OSError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}") from error
        if not piece:
            raise ConfigurationError(f"{self.path} became shorter while it was being stored: put it again")
        return piece

    def check_unchanged(self) -> None:
        """Raises ConfigurationError if the parts may be of different states of it."""
        if LargeFile.of(self.path) != self:
            raise ConfigurationError(f"{self.path} was changed while it was being stored: put it again")


class UploadMemory:
    """Where the id of an upload is kept on this machine, for one state of a file and one place; its methods block."""

    def __init__(self, place: Place, file: LargeFile) -> None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        named = json.dumps([place.store, place.key, str(file.path.resolve()), file.size, file.changed_ns])
        self._path = state / "dynlog" / "uploads" / f"{hashlib.sha256(named.encode()).hexdigest()}.json"

    def recall(self) -> str | None:
        """The id that was kept."""
        try:
            return str(json.loads(self._path.read_text(encoding="utf-8"))["upload"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, upload_id: str) -> None:
        """Keeps it; without, an interrupted put begins anew, so a failure is no reason to stop."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"upload": upload_id}), encoding="utf-8")
        except OSError as error:
            say(f"this put cannot be resumed if it is interrupted: {self._path.parent}: {error.strerror}")

    def forget(self) -> None:
        """The upload is no more."""
        self._path.unlink(missing_ok=True)


class FileUpload:
    """A file, the upload that it goes by, and the parts that the store has already."""

    def __init__(
        self, pool: BlockingPool, file: LargeFile, upload: Upload, there: dict[int, Part], memory: UploadMemory
    ) -> None:
        self._pool = pool
        self._file = file
        self._upload = upload
        self._there = there
        self._memory = memory

    async def finish(self, tell: Callable[[int], None]) -> ObjectInfo:
        """Sends what is missing and makes the object; ``tell`` hears how many bytes are there."""
        whole = hashlib.sha256()
        for number, start in enumerate(range(0, self._file.size, self._file.part_bytes), 1):
            length = min(self._file.part_bytes, self._file.size - start)
            digest = hashlib.sha256()
            async for piece in self._pieces(start, length):
                await self._pool.run(_update, piece, digest, whole)
            if self._there.get(number) != Part(number, length, digest.hexdigest()):
                await self._upload.put_part(number, self._pieces(start, length), progress=_from(start, tell))
            tell(start + length)
        await self._pool.run(self._file.check_unchanged)
        info = await self._upload.complete(sha256=whole.hexdigest(), timeout=COMPLETING_S)
        await self._pool.run(self._memory.forget)
        return info

    async def _pieces(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        stop = start + length
        while start < stop:
            piece = await self._pool.run(self._file.read, start, min(PIECE_BYTES, stop - start))
            yield piece
            start += len(piece)


async def take_up(
    store: ObjectStore, pool: BlockingPool, place: Place, file: LargeFile, metadata: dict[str, str],
    expires_after_s: float | None,
) -> FileUpload:  # fmt: skip
    """The upload that was interrupted, or a new one."""
    memory = await pool.run(UploadMemory, place, file)
    upload_id = await pool.run(memory.recall)
    if upload_id is not None:
        try:
            upload = await store.resume_upload(place.key, upload_id)
            there = {part.number: part for part in await upload.parts()}
            say(f"going on with an upload of which {len(there)} parts arrived")
            return FileUpload(pool, file, upload, there, memory)
        except ObjectNotFound:
            pass  # it was collected, or completed at the last moment
    upload = await store.start_upload(place.key, metadata=metadata, expires_after_s=expires_after_s)
    await pool.run(memory.keep, upload.upload_id)
    return FileUpload(pool, file, upload, {}, memory)


def _update(piece: bytes, *digests: hashlib._Hash) -> None:
    for digest in digests:
        digest.update(piece)


def _from(start: int, tell: Callable[[int], None]) -> Callable[[int, int | None], None]:
    return lambda done, _: tell(start + done)
