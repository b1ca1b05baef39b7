"""The etcd of `dynlog.testing`: its data outlive a kill, two do not meet, and with TLS it speaks nothing else."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from dynlog.testing.etcd import EtcdServer
from dynlog.testing.probes import etcd_answers
from dynlog.testing.process import ServerNotAvailable
from tests.testing.certificates import make_certificates

KEY = base64.b64encode(b"key").decode()


async def put(server: EtcdServer, value: bytes) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        done = await client.post("/v3/kv/put", json={"key": KEY, "value": base64.b64encode(value).decode()})
        assert done.status_code == 200


async def get(server: EtcdServer) -> bytes | None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        found = (await client.post("/v3/kv/range", json={"key": KEY})).json().get("kvs")
        return base64.b64decode(found[0]["value"]) if found else None


async def test_what_etcd_acknowledged_is_there_after_a_sigkill(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path) as server:
        await put(server, b"kept")
        await server.kill()
        await server.restart()
        assert await get(server) == b"kept"


async def test_two_etcds_side_by_side_do_not_meet(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path / "one") as one, EtcdServer(tmp_path / "two") as two:
        await put(one, b"of one")
        assert await get(two) is None


async def test_with_certificates_it_speaks_tls_only(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    async with EtcdServer(tmp_path / "server", tls=tmp_path) as server:
        assert server.url.startswith("https://")
        assert not await etcd_answers("127.0.0.1", server.port)


async def test_an_etcd_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in its way", encoding="utf-8")
    with pytest.raises(ServerNotAvailable, match=r"etcd ended while it started:\n(?s:.*)data"):
        await EtcdServer(tmp_path).start()
