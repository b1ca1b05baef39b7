"""What must be in the bucket, kept outside of the store and read by plain minio-py, which shares no code with it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from minio import Minio

from dynlog.errors import DynlogError
from dynlog.objects import ObjectStore
from dynlog.testing.minio import MinioServer
from tests.s3.conftest import BUCKET


class Oracle:
    """Bodies by key: those that were acknowledged, and those that may or may not have been stored."""

    def __init__(self) -> None:
        self._acknowledged: dict[str, bytes] = {}
        self._possible: dict[str, list[bytes]] = {}
        self._tried: dict[str, list[str]] = {}
        self._floor: dict[str, int] = {}

    def trying(self, key: str, body: bytes) -> None:
        """A put begins."""
        self._possible.setdefault(key, []).append(body)
        self._tried.setdefault(key, []).append(_digest(body))

    def acknowledged(self, key: str, body: bytes) -> None:
        """A put returned: of this key nothing older may be seen any more."""
        self._acknowledged[key] = body
        self._possible[key] = [body]
        self._floor[key] = len(self._tried[key]) - 1

    @property
    def keys(self) -> list[str]:
        """Those of acknowledged objects."""
        return list(self._acknowledged)

    def reading(self, key: str) -> Callable[[bytes], None]:
        """A get of an acknowledged object begins; gives what is to be called with its body, and fails for a body that
        is nothing that was put, or older than what was acknowledged by now."""
        floor = self._floor[key]

        def read(body: bytes) -> None:
            assert _digest(body) in self._tried[key][floor:], f"a get of {key} is nothing that was put, or out of date"

        return read

    @property
    def count(self) -> int:
        """Acknowledged objects."""
        return len(self._acknowledged)

    async def check(self, store: ObjectStore, server: MinioServer, prefix: str) -> None:
        """Fails unless every acknowledged body is there, whole, and nothing else is, by the store and by minio-py."""
        listed = {info.key: info async for info in store.list()}
        missing, strange = set(self._acknowledged) - set(listed), set(listed) - set(self._possible)
        assert (missing, strange) == (set(), set()), [str(await seen(store, key)) for key in missing]
        for key, info in listed.items():
            body = await store.get_bytes(key)
            assert body in self._possible[key], f"{key} is nothing that was put"
            assert (info.size, info.sha256) == (len(body), _digest(body))
        outside = await asyncio.to_thread(_outside, server, prefix)
        assert set(outside) == set(listed)
        for key, body in outside.items():
            assert body in self._possible[key], f"{key} is nothing that was put, says minio-py"


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def seen(store: ObjectStore, key: str) -> object:
    """What a look at the object says."""
    try:
        return await store.head(key)
    except DynlogError as error:
        return error


def _outside(server: MinioServer, prefix: str) -> Mapping[str, bytes]:
    """All bodies whose names have an extension, which are their keys."""
    client = Minio(urlsplit(server.endpoint).netloc, server.user, server.password, secure=False)
    bodies = {}
    for found in client.list_objects(BUCKET, f"{prefix}/", recursive=True):
        key = str(found.object_name).removeprefix(f"{prefix}/")
        if key.startswith(".dynlog/"):
            continue
        answer = client.get_object(BUCKET, str(found.object_name))
        try:
            bodies[key] = answer.read()
        finally:
            answer.close()
            answer.release_conn()
    return bodies
