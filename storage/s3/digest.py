"""The two digests of a body: SHA-256 is its name in the world, XXH3-128 is what a read verifies it by.

A read has to hash as fast as a network delivers: SHA-256 takes a core for 1.8 GB/s where the processor helps and for
0.4 GB/s where it does not, XXH3-128 a tenth of that.  It finds every accident; so does SHA-256, and against malice
neither helps here, since it lies beside the body that it speaks of.  Who has a SHA-256 from elsewhere compares that.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

import xxhash


class BodyDigest:
    """Both digests of what it was told so far."""

    def __init__(self) -> None:
        self._sha256: Any = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()

    def update(self, data: bytes | memoryview) -> None:
        """Takes the next bytes."""
        self._sha256.update(data)
        self._xxh3.update(data)

    def copy(self) -> Self:
        """One that goes on from here by itself."""
        twin = type(self)()
        twin._sha256, twin._xxh3 = self._sha256.copy(), self._xxh3.copy()
        return twin

    @property
    def sha256(self) -> str:
        """In hexadecimal digits."""
        return str(self._sha256.hexdigest())

    @property
    def xxh3(self) -> str:
        """XXH3 of 128 bits, in hexadecimal digits."""
        return self._xxh3.hexdigest()


class Check:
    """What a body that is read must come to: its XXH3-128, or its SHA-256 where an older dynlog put it."""

    def __init__(self, sha256: str, xxh3: str) -> None:
        self.name = "XXH3-128" if xxh3 else "SHA-256"
        self.expected = xxh3 or sha256
        self._hash: Any = xxhash.xxh3_128() if xxh3 else hashlib.sha256()
        self.update = self._hash.update

    @property
    def found(self) -> str:
        """What the bytes so far come to."""
        return str(self._hash.hexdigest())
