"""One MinIO for all tests here that leave it alone; those that harm a server start their own (`own_minio`)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dynlog.testing.minio import MinioServer
from dynlog.testing.programs import find_program

BUCKET = "objects"
_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def minio(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MinioServer]:
    """The shared server, with one bucket."""
    server = MinioServer(
        tmp_path_factory.mktemp("minio"), program=find_program("minio", provide="`make servers` provides it")
    )
    async with server:
        await server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def prefix() -> str:
    """A part of the bucket that is new for this test."""
    return f"{next(_NUMBERS):x}"


@pytest.fixture
def store_url(minio: MinioServer, prefix: str) -> str:
    """The URL of a store that is new for this test."""
    return minio.url(BUCKET, prefix)


@pytest.fixture
async def own_minio(tmp_path: Path) -> AsyncIterator[MinioServer]:
    """A server of the test's own, to be killed, paused and cut off."""
    server = MinioServer(tmp_path / "minio", program=find_program("minio", provide="`make servers` provides it"))
    async with server:
        await server.make_bucket(BUCKET)
        yield server
