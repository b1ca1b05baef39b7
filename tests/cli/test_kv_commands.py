"""`dynlog kv`: what it shows, changes and refuses."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import pytest

from dynlog.open import open_log
from dynlog.topics import Holder, HolderKind
from tests.cli.conftest import Cli
from tests.cli.process import Dynlog, dynlog


@pytest.fixture(autouse=True)
def settings(cli: Cli) -> None:
    """A bucket that keeps three changes per key."""
    assert cli("kv", "buckets", "--create", "settings", "--history", "3").status == 0


def from_json(cli: Cli, *arguments: str) -> Any:
    done = cli("kv", *arguments, "--json")
    assert (done.status, done.err) == (0, ""), done.err
    return json.loads(done.out)


def test_what_is_put_is_got_listed_and_remembered(cli: Cli) -> None:
    first = from_json(cli, "put", "settings", "model", "llama")
    assert (first["bucket"], first["key"]) == ("settings", "model")
    assert cli("kv", "put", "settings", "a", "-", stdin="two\nlines").status == 0
    second = from_json(cli, "update", "settings", "model", "qwen", "--revision", str(first["revision"]))
    assert cli("kv", "get", "settings", "model").out == "qwen\n"
    entry = from_json(cli, "get", "settings", "model")
    assert (entry["value"], entry["revision"], entry["created"], entry["changes"], entry["op"]) == (
        "qwen", second["revision"], first["revision"], 2, "put",
    )  # fmt: skip
    assert cli("kv", "get", "settings", "a", "--raw").out == "two\nlines"
    assert [e["key"] for e in from_json(cli, "ls", "settings")] == ["a", "model"]
    assert [e["key"] for e in from_json(cli, "ls", "settings", "mo")] == ["model"]
    table = cli("kv", "ls", "settings").lines
    assert table[0].split() == ["KEY", "REVISION", "TIME", "LEASE", "VALUE"]
    assert table[2].split()[-1] == "qwen"
    assert cli("kv", "delete", "settings", "model").status == 0
    story = from_json(cli, "history", "settings", "model")
    assert [(e["value"], e["op"]) for e in story] == [("llama", "put"), ("qwen", "put"), ("", "delete")]
    assert cli("kv", "history", "settings", "model").lines[-1].split()[-1] == "delete"
    assert cli("kv", "purge", "settings", "model").status == 0
    assert from_json(cli, "history", "settings", "model") == []


def test_a_value_that_is_no_text_is_base64_in_json_and_exact_when_raw(cli: Cli) -> None:
    assert cli("kv", "put", "settings", "k", "-", stdin=b"\x00\xff").status == 0
    assert from_json(cli, "get", "settings", "k")["value"] == {"base64": "AP8="}
    shown = cli("kv", "get", "settings", "k")
    assert "2 bytes 00ff" in shown.out
    assert "--raw" in shown.err, "who writes that into a file is told that it is not the value"


def test_a_long_value_is_got_whole_and_listed_cut(cli: Cli) -> None:
    long = "long " * 1000 + "end"
    assert cli("kv", "put", "settings", "k", "-", stdin=long).status == 0
    assert cli("kv", "get", "settings", "k").out == long + "\n"
    for command in (["ls", "settings"], ["history", "settings", "k"]):
        line = cli("kv", *command).lines[1]
        assert line.endswith("... (5003 bytes)")
        assert len(line) < 200
        assert from_json(cli, *command)[0]["value"] == long


def test_who_loses_is_told_in_one_line_and_status_1(cli: Cli) -> None:
    revision = from_json(cli, "create", "settings", "lock", "me")["revision"]
    lost = cli("kv", "create", "settings", "lock", "you")
    assert (lost.status, lost.out) == (1, "")
    assert f"created before, at revision {revision}" in lost.complaint
    stale = cli("kv", "update", "settings", "lock", "you", "--revision", str(revision + 5))
    assert (stale.status, stale.out) == (1, "")
    assert f"it is at revision {revision}" in stale.complaint
    assert cli("kv", "delete", "settings", "lock", "--revision", str(revision + 5)).status == 1
    assert cli("kv", "get", "settings", "lock").out == "me\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["get", "settings", "nothing"], 1, ["no such key", "nothing", "settings"]),
        (["delete", "settings", "nothing"], 1, ["no such key"]),
        (["get", "nobody", "k"], 1, ["no such bucket", "dynlog kv buckets --create nobody"]),
        (["put", "settings", "", "v"], 1, ["key", "1 to 1024"]),
        (["put", "settings", "k", "v", "--ttl", "soon"], 2, ["duration"]),
        (["put", "settings", "k", "v", "--ttl", "0s"], 2, ["time to live"]),
        (["update", "settings", "k", "v"], 2, ["--revision"]),
        (["update", "settings", "k", "v", "--revision", "-1"], 2, ["--revision"]),
        (["update", "settings", "k", "v", "--revision", "99999999999999999999"], 2, ["a revision is"]),
        (["delete", "settings", "k", "--revision", "99999999999999999999"], 2, ["a revision is"]),
        (["get", "settings", "k", "--raw", "--json"], 2, ["exclude"]),
        (["get", "bad name", "k"], 2, ["bucket name"]),
        (["watch", "settings", "a", "--prefix", "b"], 2, ["a key or a prefix"]),
        (["watch", "settings", "--from-revision", "99999"], 1, ["another bucket"]),
        (["buckets", "--create", "settings"], 1, ["there is such a bucket already", "settings"]),
        (["buckets", "--create", "a/b"], 2, ["bucket name"]),
        (["buckets", "--create", "x", "--history", "65"], 2, ["history"]),
        (["buckets", "--create", "x", "--max-value", "1TiB"], 2, ["this log takes"]),
        (["buckets", "--history", "3"], 2, ["--create"]),
        (["buckets", "--delete", "settings"], 2, ["--yes"]),
        (["buckets", "--delete", "nobody", "--yes"], 1, ["nobody"]),
        (["compact", "nobody"], 1, ["nobody"]),
        (["compact", "settings", "--timeout", "0s"], 2, ["'0s' leaves no time", "10m"]),
        (["buckets", "--timeout", "0s"], 2, ["leaves no time"]),
        (["get", "settings", "k", "--timeout", "0ms"], 2, ["leaves no time"]),
        (["put", "settings", "k", "v", "--timeout", "0s"], 2, ["leaves no time"]),
        (["watch", "settings", "--timeout", "0s"], 2, ["leaves no time"]),
    ],
)
def test_bad_input_is_named_in_one_line(cli: Cli, arguments: list[str], status: int, words: list[str]) -> None:
    done = cli("kv", *arguments)
    assert (done.status, done.out) == (status, ""), done
    for word in words:
        assert word in done.complaint


def test_a_value_on_stdin_that_no_bucket_takes_is_refused(cli: Cli) -> None:
    done = cli("kv", "put", "settings", "k", "-", stdin=b"x" * ((1 << 20) + 1))
    assert done.status == 2
    assert "stdin" in done.complaint


def test_buckets_are_listed_and_deleted(cli: Cli) -> None:
    assert cli("kv", "buckets", "--create", "short", "--ttl", "90s", "--max-value", "4KiB").status == 0
    found = from_json(cli, "buckets")
    assert [(b["name"], b["settings"]["history"], b["settings"]["ttl_s"]) for b in found] == [
        ("settings", 3, None), ("short", 1, 90.0),
    ]  # fmt: skip
    assert found[1]["settings"]["max_value_bytes"] == 4096
    assert cli("kv", "buckets").lines[0].split() == ["BUCKET", "HISTORY", "TTL", "RECORDS", "SIZE", "CREATED"]
    assert [b["name"] for b in from_json(cli, "buckets", "--delete", "short", "--yes")] == ["settings"]


def test_looking_for_buckets_makes_no_log(cli: Cli, tmp_path: Any) -> None:
    for command in (["buckets"], ["get", "b", "k"], ["put", "b", "k", "v"], ["ls", "b"], ["watch", "b"]):
        done = cli("kv", *command, "--log", f"sqlite://{tmp_path}/other.db")
        assert done.status != 0
        assert done.complaint
    assert not (tmp_path / "other.db").exists()


def test_a_compaction_keeps_every_revision(cli: Cli) -> None:
    for n in range(9):
        cli("kv", "put", "settings", f"k{n % 2}", str(n))
    before = from_json(cli, "ls", "settings")
    done = from_json(cli, "compact", "settings")
    assert done["earliest"] == done["start"] >= 9
    assert done["blocked_by"] == []
    assert from_json(cli, "ls", "settings") == before
    assert "blocked_by  nobody" in cli("kv", "compact", "settings").out


def test_the_time_that_a_command_may_take_covers_the_opening_of_the_log(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        commands = (
            ["kv", "get", "settings", "k"], ["kv", "buckets"], ["kv", "buckets", "--create", "other"], ["lease", "ls"],
            ["entities"],
        )  # fmt: skip
        for command in commands:
            done = cli(*command, "--log", url, "--timeout", "200ms")
            assert (done.status, done.out) == (1, "")
            assert "within 0.2 s" in done.complaint


def test_watch_takes_the_key_that_it_is_to_watch(cli: Cli) -> None:
    for key in ("model", "models", "other"):
        assert cli("kv", "put", "settings", key, "llama").status == 0
    seen = cli("kv", "watch", "settings", "model", "--limit", "2", "--json")
    assert (seen.status, seen.err) == (0, "")
    present, ready = map(json.loads, seen.lines)
    assert (present["event"], present["key"], ready["event"]) == ("present", "model", "ready")


async def test_a_compaction_says_who_keeps_what_it_could_not_cut_off(log_url: str) -> None:
    async with open_log(log_url) as log:
        await log.hold("dynlog.kv.settings", Holder("slow", HolderKind.NAMED, {0: 0}))
    assert (await dynlog("kv", "put", "settings", "k", "v", "--log", log_url)).status == 0
    done = await dynlog("kv", "compact", "settings", "--json", "--log", log_url)
    assert done.status == 0
    assert json.loads(done.out)["blocked_by"] == ["slow"]
    assert "slow" in done.err
    assert "dynlog log holders dynlog.kv.settings" in done.err


async def test_watch_prints_the_state_a_marker_and_every_change_until_it_is_stopped(cli: Cli, log_url: str) -> None:
    arguments = ("kv", "watch", "settings", "--prefix", "m", "--json", "--log", log_url)
    async with Dynlog.start("kv", "put", "settings", "model", "llama", "--log", log_url) as put:
        assert (await put.ended()).status == 0
    async with Dynlog.start(*arguments) as watch:
        present = json.loads(await watch.line())
        assert (present["event"], present["key"], present["value"]) == ("present", "model", "llama")
        ready = json.loads(await watch.line())
        assert ready == {"event": "ready", "revision": ready["revision"]}
        async with Dynlog.start("kv", "delete", "settings", "model", "--log", log_url) as delete:
            assert (await delete.ended()).status == 0
        changed = json.loads(await watch.line())
        assert (changed["event"], changed["key"], changed["op"]) == ("changed", "model", "delete")
        watch.signal(signal.SIGTERM)
        stopped = await watch.ended()
        assert (stopped.status, stopped.err) == (0, "")
    async with Dynlog.start(*arguments, "--from-revision", str(ready["revision"]), "--limit", "2") as again:
        assert json.loads(await again.line()) == changed
        assert (await again.ended()).status == 0
    async with Dynlog.start(*arguments) as deleted:
        assert json.loads(await deleted.line())["event"] == "ready"
        async with Dynlog.start("kv", "buckets", "--delete", "settings", "--yes", "--log", log_url) as gone:
            assert (await gone.ended()).status == 0
        done = await deleted.ended()
        assert done.status == 1
        assert "deleted while it was in use" in done.complaint
