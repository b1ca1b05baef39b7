"""A body that is being read: exactly the body of one generation, from its first byte to its last.

Every function here blocks, and is called from the store's threads.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress

from dynlog.errors import ObjectCorrupt, ObjectStoreUnavailable
from dynlog.objects import ObjectInfo
from dynlog.storage.files.sidecar import Sidecar
from dynlog.storage.files.vault import Vault

OPEN_ATTEMPTS = 1000
"""How often a reader looks again because the object was replaced while it looked."""
MISSING_ATTEMPTS = 10
"""How often a body may be in neither place before it counts as gone: a put or a delete moves it once."""


class OpenBody:
    """A body that is being read; opening, reading and closing are apart, so that no descriptor is ever lost."""

    def __init__(self, vault: Vault, key: str) -> None:
        self._vault = vault
        self._key = key
        self._descriptor: int | None = None
        self._sha256 = hashlib.sha256()

    def open(self, now_ms: int) -> ObjectInfo:
        """Opens it; raises what `open_body` raises."""
        info, self._descriptor = open_body(self._vault, self._key, now_ms)
        return info

    def read(self, at: int, count: int) -> bytes:
        """Exactly ``count`` bytes, added to the digest; raises ObjectCorrupt if they are not there."""
        assert self._descriptor is not None, "read before open"
        pieces = []
        while count and (piece := os.pread(self._descriptor, count, at)):
            pieces.append(piece)
            at, count = at + len(piece), count - len(piece)
        if count:
            raise ObjectCorrupt(f"its body ends at {at}, {count} bytes early", store=self._vault.store, key=self._key)
        whole = b"".join(pieces)
        self._sha256.update(whole)
        return whole

    def verify(self, info: ObjectInfo) -> None:
        """Raises ObjectCorrupt unless what was read is what was put."""
        if self._sha256.hexdigest() != info.sha256:
            raise ObjectCorrupt(
                f"its body has SHA-256 {self._sha256.hexdigest()} instead of {info.sha256}",
                store=self._vault.store,
                key=self._key,
            )

    def close(self) -> None:
        """Closes it; harmless in every state."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def open_body(vault: Vault, key: str, now_ms: int) -> tuple[ObjectInfo, int]:
    """The object and a descriptor of exactly its body."""
    missing = 0
    for _ in range(OPEN_ATTEMPTS):
        sidecar = vault.sidecar(key, now_ms)
        descriptor = _open_either(vault, sidecar)
        if descriptor is None:
            missing += 1
            if missing > MISSING_ATTEMPTS:
                raise ObjectCorrupt("its body is gone; delete it and put it again", store=vault.store, key=key)
            continue
        try:
            if vault.sidecar(key, now_ms).generation == sidecar.generation:
                _check_size(vault, sidecar.info, descriptor)
                kept, descriptor = descriptor, None
                return sidecar.info, kept
        finally:
            if descriptor is not None:
                os.close(descriptor)
    raise ObjectStoreUnavailable("the object is being replaced all the time", store=vault.store, key=key)


def _open_either(vault: Vault, sidecar: Sidecar) -> int | None:
    places = [vault.layout.bodies / sidecar.generation]
    natural = vault.layout.natural(sidecar.info.key)
    if sidecar.natural and natural is not None:
        places.append(natural)
    for place in places:
        with suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    return None


def _check_size(vault: Vault, info: ObjectInfo, descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size != info.size:
        raise ObjectCorrupt(f"its body has {size} bytes instead of {info.size}", store=vault.store, key=info.key)
