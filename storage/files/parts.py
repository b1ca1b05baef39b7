"""An upload in parts on disk: a folder with a description, and one file per part that ends in its own checksum.

A part is written under another name, synced and renamed, so each is there whole or not at all.  Every function here
blocks, and is called from the store's threads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from dynlog.drafts import Draft, sync_folder, write_durably
from dynlog.errors import ObjectCorrupt, ObjectNotFound
from dynlog.storage.files.sidecar import MAX_BYTES, open_json, seal_json
from dynlog.storage.files.vault import Description, Vault
from dynlog.uploads import Part

FOOTER_MAGIC = b"DLP1"
FOOTER_BYTES = 32 + len(FOOTER_MAGIC)
COPY_BYTES = 1 << 20

_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"[0-9]{5}")


class PartsFolder:
    """One upload of a vault; a new one unless ``upload_id`` is given.  Making this object touches no disk."""

    def __init__(self, vault: Vault, key: str, upload_id: str | None = None) -> None:
        self._vault = vault
        self.key = key
        self.upload_id = os.urandom(16).hex() if upload_id is None else upload_id
        self._folder = vault.layout.uploads / self.upload_id

    def start(self, description: Description) -> None:
        """Begins the upload, durably."""
        fields = description._asdict() | {"version": 1, "metadata": dict(description.metadata)}
        self._folder.mkdir()
        write_durably(self._folder / "upload", seal_json(fields))
        sync_folder(self._folder)
        sync_folder(self._vault.layout.uploads)

    def describe(self) -> Description:
        """What was said at the start; raises ObjectNotFound if there is no such upload of that key."""
        if not _UPLOAD_ID.fullmatch(self.upload_id):
            raise self._gone()
        try:
            with (self._folder / "upload").open("rb") as file:
                content = file.read(MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise self._gone() from None
        fields = open_json(content, self.key, self._vault.store)
        if fields["key"] != self.key:
            raise self._gone()
        return Description(fields["key"], MappingProxyType(fields["metadata"]), fields["expires_after_s"])

    def _gone(self) -> ObjectNotFound:
        return ObjectNotFound(
            f"no upload {self.upload_id!r}: it was completed, aborted or collected",
            store=self._vault.store,
            key=self.key,
        )

    def parts(self) -> list[Part]:
        """The parts that are there, by number, as their footers say."""
        self.describe()
        try:
            paths = sorted(path for path in self._folder.iterdir() if _PART.fullmatch(path.name))
            return [self._part(path) for path in paths]
        except FileNotFoundError:
            raise self._gone() from None

    def _part(self, path: Path) -> Part:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - FOOTER_BYTES
            file.seek(max(size, 0))
            footer = file.read(FOOTER_BYTES + 1)
        if size < 0 or not footer.endswith(FOOTER_MAGIC):
            raise self._corrupt(int(path.name), "it does not end as a part does")
        return Part(int(path.name), size, footer[:32].hex())

    def _corrupt(self, number: int, why: str) -> ObjectCorrupt:
        return ObjectCorrupt(
            f"part {number} of upload {self.upload_id}: {why}; put it again", store=self._vault.store, key=self.key
        )

    def draft(self) -> Draft:
        """A part to be written."""
        return Draft(self._folder / f"{os.urandom(8).hex()}.tmp")

    def keep(self, draft: Draft, number: int) -> Part:
        """Makes a written draft the part of that number."""
        part = Part(number, draft.size, draft.sha256)
        draft.write_footer(bytes.fromhex(part.sha256) + FOOTER_MAGIC)
        draft.sync()
        self.describe()
        try:
            draft.path.rename(self._folder / f"{number:05}")
            draft.keep()
            sync_folder(self._folder)
        except FileNotFoundError:
            raise self._gone() from None
        return part

    def copy(self, part: Part, draft: Draft) -> Iterator[int]:
        """Adds the part to a draft, a piece per step; raises ObjectCorrupt if it does not verify."""
        digest, left = hashlib.sha256(), part.size
        try:
            file = (self._folder / f"{part.number:05}").open("rb")
        except FileNotFoundError:
            raise self._gone() from None
        with file:
            while left and (piece := file.read(min(COPY_BYTES, left))):
                digest.update(piece)
                draft.write(piece)
                left -= len(piece)
                yield len(piece)
        if left or digest.hexdigest() != part.sha256:
            raise self._corrupt(part.number, f"its {part.size} bytes do not have SHA-256 {part.sha256}")

    def remove(self) -> None:
        """Forgets the upload; harmless if it is gone already."""
        if _UPLOAD_ID.fullmatch(self.upload_id):
            shutil.rmtree(self._folder, ignore_errors=True)
