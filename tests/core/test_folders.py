"""Folders of files: they exist when complete, come back byte for byte, resume, and reach nothing outside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectNotFound, ObjectStoreUnavailable
from dynlog.folders import MANIFEST, FolderFile, FolderManifest, get_folder, put_folder
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects

FILES: Mapping[str, bytes] = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "onnx/model.onnx": bytes(range(256)) * 2000,
    "onnx/deep/er/weights with space.bin": os.urandom(PIECE_BYTES + 3),
    "Ünicode/日本.txt": "日本".encode(),
}


def lay_out(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones and temporary ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def folders(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_dir()}


def manifest_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "version": 1,
        "files": [
            {"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        ],
    }


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    url = "memory://" if request.param == "memory" else f"file://{tmp_path}/objects"
    async with open_objects(url) as store:
        yield store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


class Moved:
    """A progress callback that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None]] = []

    def __call__(self, done: int, total: int | None) -> None:
        self.told.append((done, total))


async def test_a_folder_comes_back_byte_for_byte(store: ObjectStore, source: Path, target: Path) -> None:
    (source / "nothing" / "here").mkdir(parents=True)
    manifest = await put_folder(store, "models/m", source)
    assert {file.path: file.size for file in manifest.files} == {name: len(c) for name, c in FILES.items()}
    assert await get_folder(store, "models/m", target) == manifest
    assert contents(target) == FILES
    assert folders(target) == folders(source)


async def test_an_empty_folder_is_a_folder(store: ObjectStore, tmp_path: Path, target: Path) -> None:
    (tmp_path / "none").mkdir()
    assert (await put_folder(store, "m", tmp_path / "none")).files == ()
    await get_folder(store, "m", target)
    assert contents(target) == {}


async def test_a_folder_that_was_never_completed_does_not_exist(store: ObjectStore, source: Path, target: Path) -> None:
    for name, content in FILES.items():
        await store.put(f"m/{name}", content)
    with pytest.raises(ObjectNotFound, match="'m'"):
        await get_folder(store, "m", target)
    assert not target.exists()  # noqa: ASYNC240


async def test_a_put_that_is_stopped_goes_on_where_it_stopped(store: ObjectStore, source: Path, target: Path) -> None:
    moved = Moved()

    class StopError(Exception):
        pass

    def stop_after_some(done: int, total: int | None) -> None:
        if done > 400_000:
            raise StopError

    with pytest.raises(StopError):
        await put_folder(store, "m", source, progress=stop_after_some)
    with pytest.raises(ObjectNotFound):
        await get_folder(store, "m", target)
    there = {info.key: info.modified_ms async for info in store.list("m/")}
    assert there, "nothing was stored before it was stopped"
    await put_folder(store, "m", source, progress=moved)
    now = {info.key: info.modified_ms async for info in store.list("m/")}
    assert {key: now[key] for key in there} == there
    await get_folder(store, "m", target)
    assert contents(target) == FILES


async def test_a_get_moves_only_what_is_not_there_yet(store: ObjectStore, source: Path, target: Path) -> None:
    await put_folder(store, "m", source)
    lay_out(target, {"config.json": FILES["config.json"], "onnx/model.onnx": FILES["onnx/model.onnx"][:-1] + b"x"})
    before = (target / "config.json").stat()
    await store.delete("m/config.json")  # were it fetched again, this would be noticed
    await get_folder(store, "m", target)
    assert (target / "config.json").stat() == before
    assert contents(target) == FILES


async def test_other_files_in_the_target_stay(store: ObjectStore, source: Path, target: Path) -> None:
    await put_folder(store, "m", source)
    lay_out(target, {"mine": b"mine", "onnx/mine": b"mine"})
    await get_folder(store, "m", target)
    assert contents(target) == {**FILES, "mine": b"mine", "onnx/mine": b"mine"}


async def test_progress_counts_up_to_the_size_both_ways(store: ObjectStore, source: Path, target: Path) -> None:
    total = sum(map(len, FILES.values()))
    for call in (put_folder, get_folder):
        for _ in range(2):  # the second time nothing is moved
            moved = Moved()
            await call(store, "m", source if call is put_folder else target, progress=moved)
            done = [done for done, _ in moved.told]
            assert done == sorted(done)
            assert moved.told[-1] == (total, total)


async def test_a_replaced_folder_has_the_new_files_and_not_the_old_ones(
    store: ObjectStore, source: Path, target: Path
) -> None:
    await put_folder(store, "m", source)
    await store.put("m/somebody/elses", b"x")
    (source / "config.json").write_bytes(b"changed")
    (source / "empty").unlink()
    await put_folder(store, "m", source)
    assert "m/empty" not in await keys(store)
    assert "m/somebody/elses" in await keys(store)
    await get_folder(store, "m", target)
    assert contents(target) == {name: b"changed" if name == "config.json" else c for name, c in FILES.items() if c}


async def test_while_files_are_replaced_the_folder_does_not_exist(
    store: ObjectStore, source: Path, target: Path
) -> None:
    await put_folder(store, "m", source)
    big = "onnx/deep/er/weights with space.bin"
    (source / big).write_bytes(os.urandom(3 * PIECE_BYTES))
    looked = False

    def look(done: int, total: int | None) -> None:
        nonlocal looked
        looked = True
        raise KeyboardInterrupt  # the process is killed while a file is under way

    with pytest.raises(KeyboardInterrupt):
        await put_folder(store, "m", source, progress=lambda d, t: look(d, t) if d > PIECE_BYTES else None)
    assert looked
    with pytest.raises(ObjectNotFound):
        await get_folder(store, "m", target)


# Damage and malice


async def test_a_file_that_is_not_the_manifests_is_refused_and_not_left_there(
    store: ObjectStore, source: Path, target: Path
) -> None:
    await put_folder(store, "m", source)
    await store.put("m/config.json", b"{'a': 2}")
    with pytest.raises(ObjectCorrupt, match=r"m/config\.json"):
        await get_folder(store, "m", target)
    assert "config.json" not in contents(target)
    assert not any("dynlog" in name for name in contents(target))
    assert all(FILES[name] == content for name, content in contents(target).items())


async def test_a_file_that_is_gone_is_named(store: ObjectStore, source: Path, target: Path) -> None:
    await put_folder(store, "m", source)
    await store.delete("m/onnx/model.onnx")
    with pytest.raises(ObjectNotFound, match=r"m/onnx/model\.onnx"):
        await get_folder(store, "m", target)


@pytest.mark.parametrize(
    "path",
    [
        "../out",
        "/etc/out",
        "a/../../out",
        "..",
        ".",
        "",
        "a//b",
        "a\\..\\out",
        "a/",
        "a\x00b",
        "./a",
        MANIFEST,
        "x" * 2000,
    ],
)
async def test_a_manifest_whose_path_leads_elsewhere_is_refused_whole(
    store: ObjectStore, target: Path, path: str
) -> None:
    await store.put("m/good", b"good")
    await store.put(f"m/{MANIFEST}", json.dumps(manifest_of({"good": b"good", path: b"evil"})).encode())
    with pytest.raises(ObjectCorrupt, match="FolderManifest"):
        await get_folder(store, "m", target)
    assert not target.exists()  # noqa: ASYNC240


@pytest.mark.parametrize("empty", ["../out", "/etc", "a", "good", "good/below"])
def test_empty_folders_are_bound_by_the_same_rules(empty: str) -> None:
    file = FolderFile(path="good", size=0, sha256="0" * 64)
    if empty == "a":
        assert FolderManifest(files=(file,), empty_folders=(empty,)).empty_folders == ("a",)
        return
    with pytest.raises(ValidationError):
        FolderManifest(files=(file,), empty_folders=(empty,))


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b")])
def test_a_manifest_with_a_path_twice_or_through_a_file_is_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(ValidationError):
        FolderManifest(files=tuple(FolderFile(path=path, size=0, sha256="0" * 64) for path in paths))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"files": [{"path": "a", "size": -1, "sha256": "0"}]}', b"\xff"])
async def test_what_is_no_manifest_is_corrupt_and_may_be_put_over(
    store: ObjectStore, source: Path, target: Path, body: bytes
) -> None:
    await store.put(f"m/{MANIFEST}", body)
    with pytest.raises(ObjectCorrupt):
        await get_folder(store, "m", target)
    await put_folder(store, "m", source)
    await get_folder(store, "m", target)
    assert contents(target) == FILES


async def test_a_link_in_the_target_is_never_written_through(
    store: ObjectStore, source: Path, target: Path, tmp_path: Path
) -> None:
    await put_folder(store, "m", source)
    outside = lay_out(tmp_path / "outside", {"config.json": b"outside"})
    lay_out(target, {"other": b""})
    (target / "onnx").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="onnx"):
        await get_folder(store, "m", target)
    assert contents(outside) == {"config.json": b"outside"}
    (target / "onnx").unlink()
    (target / "config.json").unlink(missing_ok=True)
    (target / "config.json").symlink_to(outside / "config.json")
    await get_folder(store, "m", target)
    assert contents(outside) == {"config.json": b"outside"}
    assert not (target / "config.json").is_symlink()
    assert contents(target) == {**FILES, "other": b""}


async def test_a_folder_in_the_place_of_a_file_is_named(store: ObjectStore, source: Path, target: Path) -> None:
    await put_folder(store, "m", source)
    (target / "config.json").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        await get_folder(store, "m", target)
    (target / "config.json").rmdir()
    await get_folder(store, "m", target)
    assert contents(target) == FILES


async def test_a_file_in_the_place_of_a_folder_is_named(store: ObjectStore, source: Path, target: Path) -> None:
    await put_folder(store, "m", source)
    lay_out(target, {"onnx": b"in the way"})
    with pytest.raises(ConfigurationError, match="onnx"):
        await get_folder(store, "m", target)
    assert (target / "onnx").read_bytes() == b"in the way"


# What cannot be stored


async def test_links_to_files_are_followed(store: ObjectStore, tmp_path: Path, target: Path) -> None:
    blobs, source = lay_out(tmp_path / "blobs", {"8f3a": b"weights"}), tmp_path / "snapshot"
    source.mkdir()
    (source / "model.bin").symlink_to(blobs / "8f3a")
    await put_folder(store, "m", source)
    await get_folder(store, "m", target)
    assert contents(target) == {"model.bin": b"weights"}
    assert not (target / "model.bin").is_symlink()


@pytest.mark.parametrize("kind", ["link to a folder", "dangling link", "pipe", "manifest", "name that no key has"])
async def test_what_cannot_be_stored_is_refused_before_anything_is(store: ObjectStore, source: Path, kind: str) -> None:
    match kind:
        case "link to a folder":
            (source / "zz").symlink_to(source)
        case "dangling link":
            (source / "zz").symlink_to("nowhere")
        case "pipe":
            os.mkfifo(source / "zz")
        case "manifest":
            (source / MANIFEST).write_bytes(b"{}")
        case _:
            (source / "z\n").write_bytes(b"")
    with pytest.raises(ConfigurationError):
        await put_folder(store, "m", source)
    assert await keys(store) == []


@pytest.mark.parametrize("path", ["absent", "source/config.json"])
async def test_what_is_no_folder_is_refused(store: ObjectStore, source: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="not a folder"):
        await put_folder(store, "m", source.parent / path)


@pytest.mark.parametrize("prefix", ["", "/m", "m/", "m/../n", "a" * 1000])
async def test_an_illegal_prefix_is_refused(store: ObjectStore, source: Path, target: Path, prefix: str) -> None:
    for call, path in ((put_folder, source), (get_folder, target)):
        with pytest.raises(ConfigurationError):
            await call(store, prefix, path)
    assert await keys(store) == []


async def test_a_store_that_fills_up_holds_no_folder(source: Path, target: Path) -> None:
    async with open_objects("memory://small?max_bytes=600000") as store:
        with pytest.raises(ObjectStoreUnavailable):
            await put_folder(store, "m", source)
        with pytest.raises(ObjectNotFound):
            await get_folder(store, "m", target)


@pytest.mark.parametrize("turns", [*range(0, 60, 3), 100, 200, 400])
async def test_a_cancelled_get_leaves_whole_files_only_and_no_thread(
    store: ObjectStore, source: Path, target: Path, turns: int
) -> None:
    await put_folder(store, "m", source)
    threads = threading.active_count()
    task = asyncio.create_task(get_folder(store, "m", target))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.done()
    found = contents(target)
    assert all(FILES[name] == content for name, content in found.items())
    assert threading.active_count() <= threads + 4  # the store's own may have been started meanwhile
    await get_folder(store, "m", target)
    assert contents(target) == FILES
