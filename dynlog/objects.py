"""The object store contract: whole objects under keys, streamed, checksummed end to end.

* **An object exists completely or not at all**; a put that fails or is cancelled leaves nothing under the key.
* **What is read is what was put**: a body whose SHA-256 differs from the stored one raises ObjectCorrupt at the latest
  with its last piece, and never ends quietly.
* **Memory stays bounded** by the piece size, whatever the size of the object.
* **An expired object is not found**; `ObjectStore.gc` frees its space.
* **An upload in parts goes on after a crash** with the parts that were acknowledged (see `dynlog.uploads`).

One suite (``tests/conformance/object_suite.py``) proves these sentences for every store.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

from dynlog.errors import ConfigurationError, ObjectCorrupt
from dynlog.uploads import Upload

PIECE_BYTES = 256 * 1024
"""Size of the pieces in which bodies are streamed."""
DEFAULT_TIMEOUT_S = 60.0
MAX_KEY_BYTES = 1000
MAX_METADATA_BYTES = 2048
"""Bound of all metadata names and values of an object, as UTF-8 (S3's own)."""
STALE_AFTER_S = 24 * 3600.0
"""What nobody finished is taken for abandoned once it was left alone for this long."""

_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all or None); must not block."""
Model = TypeVar("Model", bound=BaseModel)
Body = bytes | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object; ``sha256`` is lower-case hex of the whole body."""

    key: str
    size: int
    sha256: str
    modified_ms: int
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """What `ObjectStore.gc` removed."""

    expired: int
    abandoned: int
    bytes: int


def check_key(key: str) -> str:
    """A legal key: ``/``-separated segments, 1 to 1,000 bytes of UTF-8, no empty, ``.`` or ``..`` segment, no control
    character; raises ConfigurationError naming the rule."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if (
        not 0 < size <= MAX_KEY_BYTES
        or any(segment in ("", ".", "..") for segment in key.split("/"))
        or any(ord(c) < 32 or c in "\x7f\\" for c in key)
    ):
        raise ConfigurationError(
            f"object key {key[:80]!r}: 1 to {MAX_KEY_BYTES} bytes, segments between slashes that are not empty, "
            "'.' or '..', no backslash or control character"
        )
    return key


def check_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """Legal metadata, copied: names of a-z 0-9 -, printable values, 2,048 bytes in all; raises ConfigurationError."""
    copied = dict(metadata or {})
    size = 0
    for name, value in copied.items():
        if not isinstance(name, str) or not _METADATA_NAME.fullmatch(name):
            raise ConfigurationError(f"metadata name {name!r}: 1 to 64 characters of a-z 0-9 and - are allowed")
        if not isinstance(value, str) or not value.isprintable():
            raise ConfigurationError(f"metadata {name}: a printable str is needed, not {value!r:.80}")
        size += len(name) + len(value.encode())
    if size > MAX_METADATA_BYTES:
        raise ConfigurationError(f"metadata of {size} bytes, at most {MAX_METADATA_BYTES} are allowed")
    return MappingProxyType(copied)


def check_expiry(expires_after_s: float | None) -> float | None:
    """A legal time to live in seconds, above zero, or None; raises ConfigurationError."""
    if expires_after_s is not None and not 0 < expires_after_s < 1e10:
        raise ConfigurationError(f"expires_after_s={expires_after_s}: a number of seconds above zero, or None")
    return expires_after_s


def check_range(info: ObjectInfo, start: int, length: int | None) -> tuple[int, int]:
    """The range as (start, stop); raises ConfigurationError unless it lies within the object."""
    stop = info.size if length is None else start + length
    if not 0 <= start <= stop <= info.size:
        raise ConfigurationError(
            f"bytes {start} to {stop} of object {info.key!r} were asked for, it has {info.size}: ask within 0..size"
        )
    return start, stop


class ObjectStore(ABC):
    """A store that is open; an async context manager.  Safe for concurrent use by many tasks."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL under which it was opened, without secrets."""

    @abstractmethod
    async def close(self) -> None:
        """Ends what is under way and returns; closing twice is harmless; later calls raise Closed."""

    @abstractmethod
    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        if_absent: bool = False,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> ObjectInfo:
        """Stores the body under the key, atomically and durably, replacing what was there.

        Of several puts of one key at once the last to finish stays, whole; with ``if_absent`` exactly one wins and the
        others raise ObjectExists.  ``timeout`` bounds the wait for each piece, not the whole.  Raises
        ConfigurationError for an illegal key, metadata or expiry, ObjectStoreUnavailable, DeadlineExceeded.
        """

    @abstractmethod
    def get(
        self,
        key: str,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[bytes]:
        """Streams the body, or ``length`` bytes of it from ``start``; a whole body is verified before its last piece.

        A read that has begun goes on with the body that it began with, or raises, whatever is put or deleted meanwhile.
        ``timeout`` bounds the wait for each piece.  Raises ObjectNotFound, ObjectCorrupt, ObjectStoreUnavailable,
        DeadlineExceeded, ConfigurationError for a range outside the object.
        """

    @abstractmethod
    async def head(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        """What is known of the object; raises ObjectNotFound (also once it expired)."""

    @abstractmethod
    def list(self, prefix: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ObjectInfo]:
        """All objects whose keys begin with the prefix, in the order of their keys (code points)."""

    @abstractmethod
    async def delete(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Removes the object, also a corrupt one; harmless if there is none."""

    @abstractmethod
    async def gc(self, *, older_than_s: float = STALE_AFTER_S, timeout: float = DEFAULT_TIMEOUT_S) -> Collected:
        """Removes expired objects, and what crashed puts and forgotten uploads left longer than ``older_than_s`` ago.

        Never removes an object that can be read.
        """

    @abstractmethod
    async def start_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        expires_after_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Upload:
        """Begins an upload in parts; nothing is under the key before `Upload.complete`."""

    @abstractmethod
    async def resume_upload(self, key: str, upload_id: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Upload:
        """Takes up an upload that was begun, also by another process; raises ObjectNotFound if there is none."""

    # Built on the above, the same for every store

    async def get_bytes(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> bytes:
        """The whole body, verified."""
        return b"".join([piece async for piece in self.get(key, timeout=timeout)])

    async def put_model(self, key: str, value: BaseModel) -> ObjectInfo:
        """Stores a pydantic model as JSON."""
        return await self.put(key, value.model_dump_json().encode(), metadata={"content-type": "application/json"})

    async def get_model(self, key: str, model: type[Model]) -> Model:
        """Reads a pydantic model back; raises ObjectCorrupt if the body does not validate."""
        body = await self.get_bytes(key)
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise ObjectCorrupt(
                f"not a {model.__name__}: {error.error_count()} errors, first {error.errors()[0]['msg']}",
                store=self.url, key=key,
            ) from None  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
