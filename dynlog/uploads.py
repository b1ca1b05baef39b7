"""An upload in parts: acknowledged parts outlive a crash, and the object appears whole when the last call says so.

Shaped so that S3's multipart upload is one implementation: parts are numbered from 1, may come in any order and several
at once, a part put twice counts once (the last one), and every part but the last has a minimum size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynlog.errors import ConfigurationError

if TYPE_CHECKING:
    from dynlog.objects import Body, ObjectInfo, Progress

DEFAULT_TIMEOUT_S = 60.0
MAX_PARTS = 10_000
"""Parts are numbered 1 to this (S3's own bound)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has; ``sha256`` is lower-case hex of its bytes."""

    number: int
    size: int
    sha256: str


class Upload(ABC):
    """An upload that was begun; it lives in the store, so this object needs no closing."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Where the object will lie."""

    @property
    @abstractmethod
    def upload_id(self) -> str:
        """What `ObjectStore.resume_upload` needs beside the key."""

    @property
    @abstractmethod
    def min_part_bytes(self) -> int:
        """Least size of every part but the last."""

    @abstractmethod
    async def parts(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Part]:
        """The parts that the store has, by number; raises ObjectNotFound once completed or aborted."""

    @abstractmethod
    async def put_part(
        self, number: int, data: Body, *, progress: Progress | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Part:
        """Stores a part durably, replacing one of the same number; a call that fails leaves the earlier one.

        Raises ConfigurationError for a number outside 1..10,000, ObjectNotFound once completed or aborted,
        ObjectStoreUnavailable, DeadlineExceeded.
        """

    @abstractmethod
    async def complete(self, *, sha256: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        """Makes the parts, in the order of their numbers, the object: atomically, every part verified.

        ``sha256`` is what the whole body must have.  Raises ConfigurationError if parts are missing or too small,
        ObjectCorrupt if a part or the whole does not verify; the upload is then still there.
        """

    @abstractmethod
    async def abort(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Forgets the upload and frees its parts; harmless if it is gone already."""


def check_part_number(number: int) -> int:
    """A legal part number; raises ConfigurationError."""
    if not 1 <= number <= MAX_PARTS:
        raise ConfigurationError(f"part number {number}: parts are numbered 1 to {MAX_PARTS}")
    return number


def check_parts(key: str, parts: Iterable[Part], min_part_bytes: int) -> None:
    """Raises ConfigurationError unless the parts are 1..n without a gap and all but the last are large enough."""
    ordered = sorted(parts, key=lambda part: part.number)
    if not ordered:
        raise ConfigurationError(f"the upload of {key!r} has no parts: put part 1 first")
    missing = sorted(set(range(1, ordered[-1].number + 1)) - {part.number for part in ordered})
    if missing:
        raise ConfigurationError(f"the upload of {key!r} lacks parts {missing[:10]} of 1 to {ordered[-1].number}")
    for part in ordered[:-1]:
        if part.size < min_part_bytes:
            raise ConfigurationError(
                f"part {part.number} of the upload of {key!r} has {part.size} bytes: all but the last "
                f"need {min_part_bytes}"
            )
