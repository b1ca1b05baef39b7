"""``dynlog objects`` and model folders against a real MinIO, with processes that are killed on the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from dynlog.errors import ObjectNotFound
from dynlog.folders import get_folder, put_folder
from dynlog.open import open_objects
from dynlog.testing.minio import MinioServer
from tests.cli.process import PATIENCE_S, Dynlog, dynlog
from tests.s3.conftest import BUCKET
from tests.s3.proxy import Proxy

MIB = 1 << 20
FILES: Mapping[str, int] = {
    "config.json": 100, "LICENSE": 1000, "empty.txt": 0, "onnx/a b.bin": 10, "Ünicode/日本.txt": 20,
    "model-00001-of-00002.safetensors": 12 * MIB, "model-00002-of-00002.safetensors": 7 * MIB,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder like a model's."""
    folder = tmp_path / "model"
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def at(url: str, key: str) -> str:
    """The URL of a key in the store."""
    place, _, options = url.partition("?")
    return f"{place}/{key}?{options}"


async def test_a_model_folder_goes_in_and_comes_back_byte_for_byte(store_url: str, model: Path, tmp_path: Path) -> None:
    async with open_objects(store_url) as store:
        with pytest.raises(ObjectNotFound):
            await get_folder(store, "llama", tmp_path / "no")
        await put_folder(store, "llama", model)
        await get_folder(store, "llama", tmp_path / "here")
    assert contents(tmp_path / "here") == contents(model)


async def test_a_model_goes_up_and_down_by_command(store_url: str, model: Path, tmp_path: Path) -> None:
    put = await dynlog("objects", "put", str(model), at(store_url, "llama"), "--json")
    assert (put.status, put.err) == (0, "")
    assert json.loads(put.out)["files"] == len(FILES)
    got = await dynlog("objects", "get", at(store_url, "llama"), str(tmp_path / "here"))
    assert (got.status, got.err) == (0, "")
    assert contents(tmp_path / "here") == contents(model)
    listed = await dynlog("objects", "ls", at(store_url, "llama"), "--json")
    assert len(json.loads(listed.out)) == len(FILES) + 1
    removed = await dynlog("objects", "rm", "-r", "--yes", at(store_url, "llama"), "--json")
    assert json.loads(removed.out) == {"removed": len(FILES) + 1}
    assert (await dynlog("objects", "gc", store_url)).status == 0


async def test_a_killed_get_of_a_folder_brings_only_what_is_missing(
    minio: MinioServer, prefix: str, store_url: str, model: Path, tmp_path: Path
) -> None:
    async with open_objects(store_url) as store:
        await put_folder(store, "llama", model)
    here = tmp_path / "here"
    first = here / "model-00001-of-00002.safetensors"
    async with Proxy(minio.port) as proxy:
        url = at(minio.url(BUCKET, prefix, endpoint=proxy.endpoint), "llama")
        proxy.cut_after(14 * MIB, then_refuse=True)
        async with Dynlog.start("objects", "get", url, str(here)) as command:
            async with asyncio.timeout(PATIENCE_S):
                await proxy.was_cut.wait()
            command.signal(signal.SIGKILL)
            assert (await command.ended()).status == -signal.SIGKILL
        assert first.exists()
        proxy.heal()
        before = proxy.forwarded
        done = await dynlog("objects", "get", url, str(here))
        assert (done.status, done.err) == (0, "")
        assert proxy.forwarded - before < 9 * MIB
    left = {name: body for name, body in contents(here).items() if not name.startswith(".dynlog-")}
    assert left == contents(model)


async def test_a_killed_put_of_a_large_file_sends_only_the_parts_that_are_missing(
    minio: MinioServer, prefix: str, tmp_path: Path
) -> None:
    body = os.urandom(150 * MIB)
    file = tmp_path / "large.bin"
    file.write_bytes(body)
    async with Proxy(minio.port) as proxy:
        url = at(minio.url(BUCKET, prefix, endpoint=proxy.endpoint), "large.bin")
        proxy.cut_after(100 * MIB, then_refuse=True)
        async with Dynlog.start("objects", "put", str(file), url) as command:
            async with asyncio.timeout(PATIENCE_S):
                await proxy.was_cut.wait()
            command.signal(signal.SIGKILL)
            assert (await command.ended()).status == -signal.SIGKILL
        proxy.heal()
        assert (await dynlog("objects", "head", url)).status == 1
        done = await dynlog("objects", "put", str(file), url)
        assert (done.status, done.err) == (0, "dynlog: going on with an upload of which 1 parts arrived\n")
        assert done.out.split()[-1] == hashlib.sha256(body).hexdigest()
        got = await dynlog("objects", "get", url, str(tmp_path / "got.bin"))
        assert got.status == 0
        assert (tmp_path / "got.bin").read_bytes() == body


async def test_an_interrupted_get_of_a_large_object_goes_on_where_it_was(
    minio: MinioServer, prefix: str, store_url: str, tmp_path: Path
) -> None:
    body = os.urandom(24 * MIB)
    async with open_objects(store_url) as store:
        await store.put("k.bin", body)
    async with Proxy(minio.port) as proxy:
        url = at(minio.url(BUCKET, prefix, endpoint=proxy.endpoint), "k.bin")
        proxy.cut_after(16 * MIB, then_refuse=True)
        async with Dynlog.start("objects", "get", url, str(tmp_path / "got.bin")) as command:
            async with asyncio.timeout(PATIENCE_S):
                await proxy.was_cut.wait()
            command.signal(signal.SIGTERM)
            assert (await command.ended()).status == 130
        assert not (tmp_path / "got.bin").exists()
        proxy.heal()
        before = proxy.forwarded
        done = await dynlog("objects", "get", url, str(tmp_path / "got.bin"))
        assert (done.status, "going on at" in done.err) == (0, True)
        assert proxy.forwarded - before < 23 * MIB  # what sockets held when they were cut was lost
    assert (tmp_path / "got.bin").read_bytes() == body


async def test_what_is_wrong_is_one_line_with_the_password_left_out(minio: MinioServer) -> None:
    for url, status in ((minio.url("nobodys", "k"), 2), (minio.url(BUCKET, "not/there.bin"), 1)):
        done = await dynlog("objects", "head", url)
        assert (done.status, done.out) == (status, "")
        assert minio.password not in done.complaint
