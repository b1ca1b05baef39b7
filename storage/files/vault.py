"""How an object comes to be and to go: one rename of its sidecar, with the body's own name following after.

A put writes the body to ``bodies/<generation>``, then renames the sidecar that names this generation into place: that
is the moment.  Then it moves the body to its own name, over the old one.  A reader looks for the generation first, then
under the own name, and believes the latter only if the sidecar is still the same afterwards; so a crash between the two
renames shows to nobody, and the next put or delete of the key finishes the move.

A file under an object's own name that no sidecar speaks of is somebody else's: it is never touched, and the object's
body stays in ``bodies``.  Every function here blocks, and is called from the store's threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from dynlog.drafts import Draft, make_folders, prune, rename_into, sync_folder, write_durably
from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectExists, ObjectNotFound
from dynlog.objects import ObjectInfo
from dynlog.storage.files.layout import LOCKS, Layout
from dynlog.storage.files.sidecar import MAX_BYTES, Sidecar, decode_sidecar, encode_sidecar


class Busy(Exception):
    """Another put or delete holds the lock; to be tried again."""


class Broken(Enum):
    """A sidecar that cannot be read."""

    SIDECAR = "broken"


class Description(NamedTuple):
    """What is said of an object beside its body."""

    key: str
    metadata: Mapping[str, str]
    expires_after_s: float | None


class Vault:
    """The objects of one folder."""

    def __init__(self, layout: Layout, store: str) -> None:
        self.layout = layout
        self.store = store

    def prepare(self) -> None:
        """Makes the folders and proves that they can be written; raises ConfigurationError if they cannot."""
        layout = self.layout
        try:
            for folder in (layout.entries, layout.bodies, layout.uploads, layout.locks):
                make_folders(folder)
            for number in range(LOCKS):
                # All at once, so that on a disk that has filled up a delete needs no new file.
                os.close(self._open_lock(number))
            probe = Draft(layout.bodies / f"probe-{os.urandom(8).hex()}")
            try:
                probe.open()
            finally:
                probe.discard()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and layout.locks.is_dir():
                return  # reading and deleting still work
            raise ConfigurationError(
                f"{layout.root} cannot hold an object store: {error.strerror}; name a folder that can be written"
            ) from None

    def _open_lock(self, number: int) -> int:
        return os.open(self.layout.locks / f"{number:02}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Keeps other puts and deletes of the key out, in all processes; raises Busy instead of waiting."""
        descriptor = self._open_lock(self.layout.lock_number(key))
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
            yield
        finally:
            os.close(descriptor)

    # Reading

    def sidecar(self, key: str, now_ms: int) -> Sidecar:
        """The sidecar; raises ObjectNotFound if there is none or the object has expired, ObjectCorrupt."""
        found = self.read_sidecar(key, self.layout.entry(key))
        if found is None or has_expired(found.info, now_ms):
            raise ObjectNotFound("no such object", store=self.store, key=key)
        return found

    def read_sidecar(self, key: str, path: Path) -> Sidecar | None:
        """The sidecar, also of an expired object; None if there is none."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return decode_sidecar(content, key, self.store)

    # Writing

    def draft(self) -> Draft:
        """A body to be written."""
        return Draft(self.layout.bodies / os.urandom(16).hex())

    def commit(self, draft: Draft, description: Description, now_ms: int, if_absent: bool) -> ObjectInfo:
        """Makes a synced draft the object; raises Busy, ObjectExists."""
        key, metadata, expires_after_s = description
        expires_ms = None if expires_after_s is None else now_ms + round(expires_after_s * 1000)
        info = ObjectInfo(key, draft.size, draft.sha256, now_ms, metadata, expires_ms)
        natural = self.layout.natural(key)
        with self.lock(key):
            before = self._before(key)
            if if_absent and before is not None and not _is_gone(before, now_ms):
                raise ObjectExists("an object is there already", store=self.store, key=key)
            free = natural is not None and self._may_take(natural, before)
            sidecar = Sidecar(info, draft.path.name, free)
            noted = draft.path.with_suffix(".entry")
            write_durably(noted, encode_sidecar(sidecar))
            try:
                sync_folder(self.layout.bodies)
                rename_into(noted, self.layout.entry(key))
            finally:
                try:
                    noted.unlink()
                except FileNotFoundError:
                    draft.keep()  # the moment has passed, whatever failed since
            if isinstance(before, Sidecar):
                (self.layout.bodies / before.generation).unlink(missing_ok=True)
            if free and natural is not None:
                with suppress(OSError):  # it may stay where it is: readers look there first
                    rename_into(draft.path, natural)
        return info

    def _before(self, key: str) -> Sidecar | Broken | None:
        try:
            return self.read_sidecar(key, self.layout.entry(key))
        except ObjectCorrupt:
            return Broken.SIDECAR

    def _may_take(self, natural: Path, before: Sidecar | Broken | None) -> bool:
        """Whether the file under the object's own name is this store's, or none is there."""
        if before is None:
            return not os.path.lexists(natural)
        if before is Broken.SIDECAR:
            return True  # of a foreign file at this place nothing is known any more; most likely it is the body
        if before.natural:
            # A crash may have left the body of the generation before under this name.
            self._settle(before, natural)
        return before.natural or not os.path.lexists(natural)

    def _settle(self, sidecar: Sidecar, natural: Path) -> None:
        """Finishes the move of a put that crashed after its moment."""
        with suppress(OSError):
            (self.layout.bodies / sidecar.generation).rename(natural)

    def delete(self, key: str, only_expired_at: int | None = None) -> int | None:
        """Removes the object (or only if it expired by then); its size, or None if nothing was done.  Raises Busy."""
        entry, natural = self.layout.entry(key), self.layout.natural(key)
        with self.lock(key):
            before = self._before(key)
            if before is None:
                return None
            size, body = 0, natural
            if isinstance(before, Sidecar):
                if only_expired_at is not None and not has_expired(before.info, only_expired_at):
                    return None
                size = before.info.size
                body = self.layout.bodies / before.generation
                if before.natural and natural is not None:
                    # Out of sight of other tools first, where a crash leaves it to be found by readers or by gc.
                    self._settle(before, natural)
                    if natural.is_file() and not body.exists():
                        natural.rename(body)
            elif only_expired_at is not None:
                return None
            entry.unlink()
            sync_folder(entry.parent)
            if body is not None and (body is not natural or body.is_file()):
                body.unlink(missing_ok=True)
            prune(entry.parent, self.layout.entries)
            if natural is not None and before is not None:
                prune(natural.parent, self.layout.root)
            return size


def has_expired(info: ObjectInfo, now_ms: int) -> bool:
    """Whether the object is no longer there for anybody."""
    return info.expires_ms is not None and info.expires_ms <= now_ms


def _is_gone(before: Sidecar | Broken, now_ms: int) -> bool:
    return isinstance(before, Sidecar) and has_expired(before.info, now_ms)
