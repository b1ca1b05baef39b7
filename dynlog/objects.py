"""The object store contract: whole objects under keys, streamed, checksummed end to end.

* **An object exists completely or not at all**; a put that fails or is cancelled leaves nothing under the key.
* **What is read is what was put**: a body whose SHA-256 differs from the stored one raises ObjectCorrupt at the latest
  with its last piece, and never ends quietly.
* **Memory stays bounded** by the piece size, whatever the size of the object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

from dynlog.errors import ConfigurationError, ObjectCorrupt

PIECE_BYTES = 256 * 1024
"""Size of the pieces in which bodies are streamed."""
DEFAULT_TIMEOUT_S = 60.0
MAX_KEY_BYTES = 1000

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

        ``timeout`` bounds the wait for each piece, not the whole.  Raises ObjectExists with ``if_absent``,
        ConfigurationError for an illegal key, ObjectStoreUnavailable, DeadlineExceeded.
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
        """Streams the body, or ``length`` bytes of it from ``start``; a whole body is verified against its SHA-256.

        Raises ObjectNotFound, ObjectCorrupt, ConfigurationError for a range outside the object.
        """

    @abstractmethod
    async def head(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> ObjectInfo:
        """What is known of the object; raises ObjectNotFound (also once it expired)."""

    @abstractmethod
    def list(self, prefix: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> AsyncIterator[ObjectInfo]:
        """All objects whose keys begin with the prefix, in the order of their keys (code points)."""

    @abstractmethod
    async def delete(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Removes the object; harmless if there is none."""

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
