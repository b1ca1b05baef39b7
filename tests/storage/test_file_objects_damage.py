"""Damage to the files of a store: every flipped bit and every truncation is found and named, and can be got over."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, ObjectCorrupt
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects
from tests.conformance.object_backend import keys
from tests.storage.folder_of_objects import files, foreign, only


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[ObjectStore]:
    async with open_objects(f"file://{root}") as store:
        yield store


async def test_every_flipped_bit_of_body_and_sidecar_is_found(store: ObjectStore, root: Path) -> None:
    body = b"a small body"
    info = await store.put("a/k", body, metadata={"m": "x"}, expires_after_s=1e6)
    found = [root / name for name in files(root)]
    assert len(found) == 2
    flips = 0
    for path in found:
        content = path.read_bytes()
        for at in range(len(content)):
            for bit in range(8):
                path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
                with pytest.raises(ObjectCorrupt, match="a/k"):
                    await store.get_bytes("a/k")
                flips += 1
        path.write_bytes(content)
    assert flips > 8 * len(body)
    assert await store.get_bytes("a/k") == body
    assert await store.head("a/k") == info


async def test_every_truncation_of_body_and_sidecar_is_found(store: ObjectStore, root: Path) -> None:
    await store.put("k", b"a small body")
    for path in [root / name for name in files(root)]:
        content = path.read_bytes()
        for size in range(len(content)):
            path.write_bytes(content[:size])
            with pytest.raises(ObjectCorrupt, match="k"):
                await store.get_bytes("k")
        path.write_bytes(content + b"\n")
        with pytest.raises(ObjectCorrupt, match="k"):
            await store.get_bytes("k")
        path.write_bytes(content)
    assert await store.get_bytes("k") == b"a small body"


async def test_a_flip_in_the_last_piece_is_found_before_that_piece_is_handed_out(
    store: ObjectStore, root: Path
) -> None:
    body = os.urandom(2 * PIECE_BYTES + 10)
    await store.put("k", body)
    (root / "k").write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    found = b""

    async def read() -> None:
        nonlocal found
        async for piece in store.get("k"):
            found += piece

    with pytest.raises(ObjectCorrupt):
        await read()
    assert found == body[: 2 * PIECE_BYTES]


async def test_a_body_that_is_gone_is_corrupt_not_missing(store: ObjectStore, root: Path) -> None:
    await store.put("k", b"x")
    (root / "k").unlink()
    with pytest.raises(ObjectCorrupt, match="gone"):
        await store.get_bytes("k")


async def test_a_sidecar_under_another_objects_name_is_corrupt(store: ObjectStore, root: Path) -> None:
    await store.put("one", b"x")
    await store.put("two", b"y")
    entries = root / ".dynlog" / "entries"
    (entries / "two.o").write_bytes((entries / "one.o").read_bytes())
    with pytest.raises(ObjectCorrupt, match="two"):
        await store.head("two")


@pytest.mark.parametrize("name", ["body", "sidecar"])
async def test_a_corrupt_object_may_be_deleted_and_put_again(store: ObjectStore, root: Path, name: str) -> None:
    for turn in range(2):
        await store.put("k", b"content")
        path = root / "k" if name == "body" else root / ".dynlog" / "entries" / "k.o"
        path.write_bytes(b"damaged")
        with pytest.raises(ObjectCorrupt):
            await store.get_bytes("k")
        if turn:
            await store.delete("k")
            assert await keys(store) == []
    await store.put("k", b"sound")
    assert await store.get_bytes("k") == b"sound"
    assert foreign(root) == {"k": b"sound"}


async def test_a_sidecar_of_a_newer_dynlog_is_refused_by_name(store: ObjectStore, root: Path) -> None:
    import google_crc32c

    await store.put("k", b"x")
    path = root / ".dynlog" / "entries" / "k.o"
    line = path.read_bytes().splitlines(keepends=True)[0].replace(b'"version": 1', b'"version": 2')
    path.write_bytes(line + b"%08x\n" % google_crc32c.value(line))
    with pytest.raises(ConfigurationError, match="newer"):
        await store.head("k")


async def test_a_damaged_part_of_an_upload_is_named_and_may_be_put_again(store: ObjectStore, root: Path) -> None:
    upload = await store.start_upload("k")
    await upload.put_part(1, b"first")
    await upload.put_part(2, b"second")
    path = only(root, ".dynlog/uploads/*/00002")
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ObjectCorrupt, match="part 2"):
            await upload.complete()
    assert await keys(store) == []
    await upload.put_part(2, b"second")
    await upload.complete()
    assert await store.get_bytes("k") == b"firstsecond"
