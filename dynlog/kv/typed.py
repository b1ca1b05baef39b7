"""Typed buckets: values are pydantic models, stored as JSON.

settings = TypedBucket(bucket, ModelCard)
revision = await settings.put("llama", ModelCard(context_length=8192))
card = (await settings.get("llama")).value
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from dynlog.errors import ConfigurationError, MalformedRecord
from dynlog.kv.bucket import Bucket
from dynlog.kv.rows import Entry
from dynlog.log import DEFAULT_TIMEOUT_S

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TypedEntry(Generic[M]):
    """A key whose value is a model; ``entry`` is the same as the bucket has it."""

    key: str
    value: M
    revision: int
    entry: Entry


class TypedBucket(Generic[M]):
    """A bucket, or a part of one, whose values are models of one type; `bucket` is the bucket itself."""

    def __init__(self, bucket: Bucket, model: type[M]) -> None:
        self.bucket, self._model = bucket, model

    def read(self, entry: Entry) -> TypedEntry[M]:
        """The entry with its model, also one that a watch gave; raises MalformedRecord for a value that is none."""
        try:
            value = self._model.model_validate_json(entry.value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the value"
            raise MalformedRecord(
                f"bucket {self.bucket.name!r}, key {entry.key!r}, revision {entry.revision}: not a "
                f"{self._model.__name__}: {where}: {first['msg']}"
            ) from None
        return TypedEntry(entry.key, value, entry.revision, entry)

    async def get(
        self, key: str, *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S
    ) -> TypedEntry[M] | None:
        """As `Bucket.get`; raises MalformedRecord as well."""
        entry = await self.bucket.get(key, linearizable=linearizable, timeout=timeout)
        return None if entry is None else self.read(entry)

    async def entries(
        self, prefix: str = "", *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S
    ) -> list[TypedEntry[M]]:
        """As `Bucket.entries`; raises MalformedRecord as well."""
        found = await self.bucket.entries(prefix, linearizable=linearizable, timeout=timeout)
        return [self.read(entry) for entry in found]

    async def put(
        self,
        key: str,
        value: M,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """As `Bucket.put`; raises ConfigurationError for a value of another model."""
        return await self.bucket.put(key, self._json(value), lease=lease, ttl_s=ttl_s, timeout=timeout)

    async def create(
        self,
        key: str,
        value: M,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """As `Bucket.create`."""
        return await self.bucket.create(key, self._json(value), lease=lease, ttl_s=ttl_s, timeout=timeout)

    async def update(
        self,
        key: str,
        value: M,
        revision: int,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """As `Bucket.update`."""
        return await self.bucket.update(key, self._json(value), revision, lease=lease, ttl_s=ttl_s, timeout=timeout)

    async def delete(self, key: str, revision: int | None = None, *, timeout: float = DEFAULT_TIMEOUT_S) -> int | None:
        """As `Bucket.delete`."""
        return await self.bucket.delete(key, revision, timeout=timeout)

    def _json(self, value: M) -> bytes:
        if not isinstance(value, self._model):  # nobody could read it
            raise ConfigurationError(f"a value here is a {self._model.__name__}, not {type(value).__name__}")
        return value.model_dump_json().encode()
