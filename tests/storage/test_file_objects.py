"""The file store keeps the contract; and what only files can show: foreign tools, full disks, locks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, DynlogError, ObjectStoreUnavailable
from dynlog.objects import PIECE_BYTES, ObjectInfo, ObjectStore
from dynlog.open import open_objects
from dynlog.storage.files.layout import PAGE, Layout
from dynlog.storage.files.sidecar import Sidecar, encode_sidecar
from dynlog.timing import ManualClock
from tests.conformance.object_backend import PATIENCE_S, keys
from tests.conformance.object_suite import ObjectSuite
from tests.conformance.object_suite_races import BoundedMemorySuite
from tests.storage.folder_of_objects import files, foreign


class TestFileObjects(ObjectSuite, BoundedMemorySuite):
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/objects"

    @pytest.fixture(autouse=True)
    def _remember(self, tmp_path: Path) -> None:
        self._hidden = tmp_path / "objects" / ".dynlog"

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        clock.advance(seconds)
        for path in self._hidden.rglob("*"):
            os.utime(path, (clock.time_ms() / 1000 - seconds,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[ObjectStore]:
    async with open_objects(f"file://{root}") as store:
        yield store


TWENTY_YEARS_S = 20 * 365 * 86_400


# Plain files


async def test_bodies_are_plain_files_under_their_own_names(store: ObjectStore, root: Path) -> None:
    for key in ("models/a/config.json", "models/a/model.safetensors", "README"):
        await store.put(key, key.encode())
        await store.put(key, f"{key} 2".encode())
    assert foreign(root) == {
        key: f"{key} 2".encode() for key in ("models/a/config.json", "models/a/model.safetensors", "README")
    }
    await store.delete("models/a/config.json")
    await store.delete("models/a/model.safetensors")
    assert foreign(root) == {"README": b"README 2"}
    assert not (root / "models").exists()


async def test_a_put_and_a_delete_leave_no_other_file(store: ObjectStore, root: Path) -> None:
    await store.put("a/b", b"1")
    await store.put("a/b", b"2")
    assert len(files(root)) == 2
    await store.delete("a/b")
    assert files(root) == {}


async def test_a_file_that_is_somebody_elses_is_never_touched(store: ObjectStore, root: Path) -> None:
    (root / "notes.txt").write_bytes(b"mine")
    assert await keys(store) == []
    await store.put("notes.txt", b"object")
    await store.put("notes.txt", b"object again")
    assert await store.get_bytes("notes.txt") == b"object again"
    assert (root / "notes.txt").read_bytes() == b"mine"
    assert len(files(root)) == 3, "the body that was replaced is still there"
    await store.delete("notes.txt")
    await store.gc(older_than_s=-TWENTY_YEARS_S)
    assert files(root) == {"notes.txt": b"mine"}


async def test_a_store_is_found_again_after_its_folder_was_moved(tmp_path: Path) -> None:
    async with open_objects(f"file://{tmp_path}/one") as store:
        await store.put("a/b", b"x", metadata={"m": "1"})
    (tmp_path / "one").rename(tmp_path / "two")
    async with open_objects(f"file://{tmp_path}/two") as store:
        assert await store.get_bytes("a/b") == b"x"
        assert dict((await store.head("a/b")).metadata) == {"m": "1"}


# Opening


@pytest.mark.parametrize(
    "url", ["file://relative/path", "file://", "file:///tmp/x?sync=no", "file://host/path", "file://u@/x"]
)
async def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with open_objects(url):
            pass


async def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing/here")):
        with pytest.raises(ConfigurationError, match=str(place)):
            async with open_objects(f"file://{place}"):
                pass


async def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """Root may write everywhere, so another user tries."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        if os.geteuid() == 0:
            parent.chmod(parent.stat().st_mode | 0o055)
    code = (
        "import asyncio, os, sys\n"
        "from dynlog.open import open_objects, OBJECT_STORES\n"
        "import dynlog.storage.file_objects\n"
        "from dynlog.errors import ConfigurationError\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    try:\n"
        "        async with open_objects(sys.argv[1]): print('opened')\n"
        "    except ConfigurationError as error: print('refused', error)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, f"file://{folder}", stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.startswith(b"refused")
    assert bytes(folder) in out


# A disk that is full, a lock that is held


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may grow over the returned size, as on a disk that is full."""
    import resource

    bound = 4 * PIECE_BYTES + 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, before[1]))
    yield bound
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_is_unavailable_and_leaves_nothing_behind(
    store: ObjectStore, root: Path, small_files: int
) -> None:
    await store.put("k", b"old")
    before = files(root)
    with pytest.raises(ObjectStoreUnavailable, match="no space"):
        await store.put("k", os.urandom(small_files + 1))
    upload = await store.start_upload("u")
    with pytest.raises(ObjectStoreUnavailable, match="no space"):
        await upload.put_part(1, os.urandom(small_files + 1))
    assert await upload.parts() == []
    await upload.abort()
    assert files(root) == before
    await store.put("k", b"new")
    assert await store.get_bytes("k") == b"new"


async def test_a_lock_that_another_process_holds_is_waited_for_until_the_deadline(
    store: ObjectStore, root: Path
) -> None:
    code = (
        "import fcntl, pathlib, sys\n"
        "held = [open(path) for path in pathlib.Path(sys.argv[1]).iterdir()]\n"
        "for file in held: fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(root / ".dynlog" / "locks"), stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"held\n"
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DynlogError, match="k"):
            await store.put("k", b"x", timeout=0.2)
        assert files(root) == {}
        waiting = asyncio.create_task(store.put("k", b"y"))
        process.stdin.close()
        await process.wait()
        await waiting
    assert await store.get_bytes("k") == b"y"


async def test_a_listing_of_a_large_folder_is_complete_and_in_order(store: ObjectStore, root: Path) -> None:
    """More names than a page; the sidecars are written directly, since thousands of synced puts take long."""
    layout = Layout(root)
    names = [f"d/{number}" for number in range(2 * PAGE + 300)]
    layout.entry("d/0").parent.mkdir()
    for name in names:
        info = ObjectInfo(name, 0, "0" * 64, 0)
        layout.entry(name).write_bytes(encode_sidecar(Sidecar(info, "0" * 32, natural=False)))
    assert await keys(store, "d/") == sorted(names)
    assert await keys(store, "d/19") == sorted(name for name in names if name.startswith("d/19"))
