"""``dynlog objects`` on a folder of objects: files, folders, pipes, and going on after an interruption."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.cli.objects_large import LARGE
from dynlog.errors import ConfigurationError, ObjectNotFound
from dynlog.folders import get_folder, put_folder
from dynlog.objects import PIECE_BYTES
from dynlog.open import open_objects
from tests.cli.conftest import Cli
from tests.cli.process import PATIENCE_S, Dynlog, dynlog


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder of objects that does not exist yet."""
    return f"file://{tmp_path}/objects/"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of files."""
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "onnx" / "model.onnx").write_bytes(os.urandom(3_000_000))
    return folder


def test_a_file_goes_in_and_comes_out(cli: Cli, url: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    done = cli("objects", "put", f"{tmp_path}/a.txt", f"{url}/docs/", "--metadata", "who=me", "--json")
    digest = hashlib.sha256(b"hello").hexdigest()
    told = json.loads(done.out)
    assert (done.status, done.err) == (0, "")
    assert (told["key"], told["size"], told["sha256"], told["metadata"]) == ("docs/a.txt", 5, digest, {"who": "me"})
    assert json.loads(cli("objects", "head", f"{url}docs/a.txt", "--json").out) == told
    assert cli("objects", "get", f"{url}docs/a.txt", f"{tmp_path}/b.txt").status == 0
    assert (tmp_path / "b.txt").read_bytes() == b"hello"
    assert cli("objects", "get", f"{url}docs/a.txt", str(tmp_path / "model/")).status == 0
    assert cli("objects", "get", f"{url}docs/a.txt", "-").out == "hello"


def test_a_folder_goes_in_and_comes_out(cli: Cli, url: str, model: Path, tmp_path: Path) -> None:
    done = cli("objects", "put", str(model), f"{url}/llama", "--json")
    assert (json.loads(done.out), done.err) == ({"folder": "llama", "files": 2, "bytes": 3_000_002}, "")
    keys = [info["key"] for info in json.loads(cli("objects", "ls", f"{url}llama", "--json").out)]
    assert keys == ["llama/config.json", "llama/dynlog-folder.json", "llama/onnx/model.onnx"]
    done = cli("objects", "get", f"{url}llama", f"{tmp_path}/here")
    assert (done.status, done.err) == (0, "")
    for name in ("config.json", "onnx/model.onnx"):
        assert (tmp_path / "here" / name).read_bytes() == (model / name).read_bytes()


async def test_a_file_that_changes_while_its_folder_is_put_is_refused_instead_of_stored_half_and_half(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(4 * PIECE_BYTES))

    def replace_it(done: int, _: int | None) -> None:
        if 0 < done <= PIECE_BYTES:
            (tmp_path / "new").write_bytes(b"1" * 4 * PIECE_BYTES)
            (tmp_path / "new").rename(folder / "w.bin")

    async with open_objects(f"memory://{uuid4().hex}") as store:
        with pytest.raises(ConfigurationError, match="changed"):
            await put_folder(store, "weights", folder, progress=replace_it)
        with pytest.raises(ObjectNotFound):
            await get_folder(store, "weights", tmp_path / "out")
        await put_folder(store, "weights", folder)
        await get_folder(store, "weights", tmp_path / "out")
    assert (tmp_path / "out" / "w.bin").read_bytes() == b"1" * 4 * PIECE_BYTES


def test_what_is_no_file_is_refused_at_once_and_stdin_is_named(cli: Cli, url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = cli("objects", "put", f"{tmp_path}/pipe", f"{url}/pipe")
    assert done.status == 2
    assert "stdin" in done.err


def test_ls_shows_the_object_and_those_below_it_and_no_neighbours(cli: Cli, url: str) -> None:
    for key in ("a", "a/b", "ab"):
        assert cli("objects", "put", "-", f"{url}/{key}", stdin="x").status == 0
    found = json.loads(cli("objects", "ls", f"{url}a", "--json").out)
    assert [info["key"] for info in found] == ["a", "a/b"]
    lines = cli("objects", "ls", url).lines
    assert [line.split()[-1] for line in lines] == ["KEY", "a", "a/b", "ab"]


def test_rm_takes_a_folder_only_if_told_to(cli: Cli, url: str, model: Path) -> None:
    assert cli("objects", "put", str(model), f"{url}/llama").status == 0
    refused = cli("objects", "rm", f"{url}llama")
    assert (refused.status, "--recursive" in refused.complaint) == (2, True)
    unconfirmed = cli("objects", "rm", "-r", f"{url}llama")
    assert (unconfirmed.status, "--yes" in unconfirmed.complaint) == (2, True)
    assert json.loads(cli("objects", "rm", "-r", "--yes", f"{url}llama", "--json").out) == {"removed": 3}
    assert cli("objects", "ls", url).out == "no objects\n"
    assert cli("objects", "rm", f"{url}llama").status == 1


def test_gc_frees_what_expired(cli: Cli, url: str) -> None:
    assert cli("objects", "put", "-", f"{url}/short", "--expires-after", "1ms", stdin="12345").status == 0
    assert cli("objects", "put", "-", f"{url}/long", "--expires-after", "1h", stdin="x").status == 0
    assert json.loads(cli("objects", "gc", url, "--json").out) == {"expired": 1, "abandoned": 0, "bytes": 5}
    assert [info["key"] for info in json.loads(cli("objects", "ls", url, "--json").out)] == ["long"]


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["ls", "/no/url"], 2, "not a URL"),
        (["ls", "memory://x/y"], 2, "s3://bucket/key or file:///path"),
        (["ls", "file:///nowhere/at/all"], 2, "write // where"),
        (["get", "{url}/nothing", "x"], 1, "nothing"),
        (["get", "{url}/", "x"], 2, "which object or folder"),
        (["put", "/nowhere/file", "{url}/k"], 2, "/nowhere/file"),
        (["put", "-", "{url}/"], 2, "needs a key"),
        (["put", "-", "{url}/k", "--metadata", "x"], 2, "name=value"),
        (["get", "{url}/nothing", "-", "--json"], 2, "stdout"),
        (["ls", "s3://bucket/x?colour=red"], 2, "colour"),
    ],
)
def test_what_cannot_work_is_one_line(cli: Cli, url: str, arguments: list[str], status: int, named: str) -> None:
    done = cli("objects", *(argument.format(url=url) for argument in arguments))
    assert (done.status, done.out) == (status, "")
    assert named in done.complaint


def test_an_interrupted_get_of_a_file_goes_on_where_it_was(cli: Cli, url: str, tmp_path: Path) -> None:
    body = os.urandom(2_000_000)
    (tmp_path / "big").write_bytes(body)
    assert cli("objects", "put", f"{tmp_path}/big", f"{url}/big").status == 0
    part = tmp_path / f".got.{hashlib.sha256(body).hexdigest()[:16]}.dynlog-part"
    part.write_bytes(body[:700_000])
    done = cli("objects", "get", f"{url}big", f"{tmp_path}/got")
    assert (done.status, "going on at 683.6 KiB" in done.err) == (0, True)
    assert (tmp_path / "got").read_bytes() == body
    assert not part.exists()


def test_what_an_interrupted_get_left_is_verified_before_it_counts(cli: Cli, url: str, tmp_path: Path) -> None:
    assert cli("objects", "put", "-", f"{url}/k", stdin="0123456789").status == 0
    part = tmp_path / f".got.{hashlib.sha256(b'0123456789').hexdigest()[:16]}.dynlog-part"
    part.write_bytes(b"01x")
    done = cli("objects", "get", f"{url}k", f"{tmp_path}/got")
    assert (done.status, "SHA-256" in done.err) == (1, True)
    assert not (tmp_path / "got").exists()
    assert cli("objects", "get", f"{url}k", f"{tmp_path}/got").status == 0
    assert (tmp_path / "got").read_bytes() == b"0123456789"


async def test_a_killed_put_of_a_large_file_sends_only_what_is_missing(url: str, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        for number in range(4):
            sparse.seek(number * LARGE)
            sparse.write(os.urandom(1000))
        sparse.truncate(3 * LARGE + LARGE // 2)
    arrived = tmp_path / "objects" / ".dynlog"
    async with Dynlog.start("objects", "put", str(file), f"{url}/large") as command:
        async with asyncio.timeout(PATIENCE_S):
            while not [p for p in arrived.rglob("*") if p.is_file() and p.stat().st_size >= LARGE]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        command.signal(signal.SIGKILL)
        assert (await command.ended()).status == -signal.SIGKILL
    assert (await dynlog("objects", "ls", url)).out == "no objects\n"
    done = await dynlog("objects", "put", str(file), f"{url}/large")
    assert done.status == 0
    assert "going on with an upload of which" in done.err
    assert done.out.split()[-1] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (await dynlog("objects", "gc", url, "--older-than", "0s", "--json")).status == 0
