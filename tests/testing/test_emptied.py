"""What a test wrote on a shared server is gone after it, so that a long session does not fill the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.user_project import UserProject

LOGS = """
    import pathlib, pytest
    from dynlog import Record, open_log

    @pytest.mark.asyncio
    async def test_writes(dynlog_log, dynlog_log_url):
        await dynlog_log.create_topic("t", partitions=2)
        await dynlog_log.append("t", 0, [Record(parts=(b"x",))])
        pathlib.Path("url").write_text(dynlog_log_url)

    @pytest.mark.asyncio
    async def test_finds_nothing(dynlog_log):
        async with open_log(pathlib.Path("url").read_text()) as before:
            assert await before.topics() == []
"""
OBJECTS = """
    import pathlib, pytest
    from minio import Minio

    @pytest.mark.asyncio
    async def test_writes(dynlog_objects, dynlog_namespace):
        await dynlog_objects.put("some/key", b"x")
        await dynlog_objects.start_upload("unfinished")
        pathlib.Path("bucket").write_text(dynlog_namespace)

    def test_finds_nothing(minio_server):
        client = Minio(minio_server.address, minio_server.user, minio_server.password, secure=False)
        assert not client.bucket_exists(pathlib.Path("bucket").read_text())
"""


@pytest.mark.parametrize("engine", ["redis", "kafka"])
async def test_a_log_is_emptied_after_its_test(tmp_path: Path, engine: str) -> None:
    done = await UserProject(tmp_path, LOGS).run(f"--dynlog-engines={engine}")
    assert set(done.tests.values()) == {"PASSED"}, done.output
    assert len(done.tests) == 2


async def test_a_bucket_is_removed_after_its_test(tmp_path: Path) -> None:
    done = await UserProject(tmp_path, OBJECTS).run("--dynlog-stores=s3")
    assert set(done.tests.values()) == {"PASSED"}, done.output
