"""Writes into a real etcd what a test wants to read back: the adapter itself never writes."""

from __future__ import annotations

import base64
from types import TracebackType
from typing import Any, Self

import httpx


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


class EtcdWriter:
    """An async context manager over etcd's JSON gateway."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        headers = {"Authorization": token} if token else {}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=20)

    async def call(self, path: str, **request: Any) -> Any:
        done = await self._client.post(path, json=request)
        assert done.status_code == 200, done.text
        return done.json()

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        await self.call("/v3/kv/put", key=b64(key), value=b64(value), lease=str(lease))

    async def grant(self, seconds: int) -> int:
        return int((await self.call("/v3/lease/grant", TTL=str(seconds)))["ID"])

    async def revoke(self, lease: int) -> None:
        await self.call("/v3/lease/revoke", ID=str(lease))

    async def compact(self) -> None:
        """Drops every revision but the newest."""
        revision = (await self.call("/v3/kv/range", key=b64(b"x")))["header"]["revision"]
        await self.call("/v3/kv/compaction", revision=revision, physical=True)

    async def want_passwords(self) -> None:
        """Users ``root`` (reads all) and ``nobody`` (reads nothing), both with the password ``right``."""
        for name in ("root", "nobody"):
            await self.call("/v3/auth/user/add", name=name, password="right")
        await self.call("/v3/auth/role/add", name="root")
        await self.call("/v3/auth/user/grant", user="root", role="root")
        await self.call("/v3/auth/enable")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()
