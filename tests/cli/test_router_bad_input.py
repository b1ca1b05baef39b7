"""Whatever is wrong with a router command: one line that names it, a non-zero status, nothing on stdout."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.router_fleet import SAMPLE, expected_events, ingest_lines, jsonl, mooncake

FAILED, MISUSED = 1, 2
LOOKS = [
    ["rebuild"], ["dump"], ["match", "--hashes", "-"], ["remove-worker", "7"], ["status"],
    ["serve", "--listen", "127.0.0.1:0"], ["snapshot", "--objects", "memory://"],
]  # fmt: skip


@pytest.mark.parametrize("command", LOOKS, ids=lambda command: command[0])
def test_a_log_or_topic_that_is_not_there_is_named_and_not_made(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    done = cli("router", *command, "--topic", "kv", stdin="[]")
    assert (done.status, done.out) == (MISUSED, ""), done
    assert "events.db" in done.complaint
    assert not (tmp_path / "events.db").exists()

    assert cli("log", "create", "other").status == 0
    done = cli("router", *command, "--topic", "kv", stdin="[]")
    assert (done.status, done.out) == (FAILED, ""), done
    assert "kv" in done.complaint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "not JSON"),
        ("nonsense", "not JSON"),
        ("{}", "a JSON array is needed, not an object of 0"),
        ("[1, -1]", "hashes[1]"),
        ("[18446744073709551616]", "hashes[0]"),
        ("[1.0]", "hashes[0]"),
        ('["0x1"]', "'0x1'"),
        ("[" * 100_000, "nested too deeply"),
        ("[NaN]", "hashes[0]"),
        ("[" + "1" * 5000 + "]", "not JSON"),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_the_lines_before_it_are_answered(
    cli: Cli, line: str, words: str
) -> None:
    cli(*mooncake(requests=1))

    done = cli("router", "match", "--topic", "kv", "--hashes", "-", stdin=f"[1]\n{line}\n[2]\n")

    assert done.status == FAILED
    assert len(done.lines) == 1
    assert done.complaint.startswith("stdin:2: ")
    assert words in done.complaint


MISUSES = [
    (["match"], "either --hashes FILE or --tokens FILE"),
    (["match", "--hashes", "-", "--tokens", "-"], "either"),
    (["match", "--hashes", "-", "--block-size", "16"], "go with --tokens"),
    (["match", "--hashes", "-", "--limit", "0"], "--limit"),
    (["match", "--hashes", "-", "--tier", "tape"], "tape"),
    (["match", "--tokens", "-"], "--block-size: missing"),
    (["snapshot"], "--objects"),
    (["rebuild", "--objects", "s4://x"], "s4://"),
    (["rebuild", "--objects", "objects"], "file://"),
    (["remove-worker", "-1"], "-1"),
    (["remove-worker", "pod-7"], "pod-7"),
    (["remove-worker", "18446744073709551616"], "2^64-1"),
    (["remove-worker", "0xg"], "0xg"),
    (["serve", "--listen", "nowhere"], "HOST:PORT"),
    (["serve", "--listen", "127.0.0.1:99999"], "HOST:PORT"),
    (["serve", "--max-staleness", "soon"], "soon"),
    (["serve", "--max-body", "big"], "big"),
    (["ingest", "--format", "dynamo-jsonl"], "name a SOURCE"),
    (["ingest", "--format", "dynamo-jsonl", "-", "--idle", "0"], "100ms"),
    (["ingest", "--format", "dynamo-jsonl", "-", "--idle", "nan"], "nan"),
    (["serve", "--snapshot-every", "0s"], "100ms"),
    (["serve", "--max-staleness", "-1"], "-1"),
    (["ingest", "--format", "mooncake", "a", "b"], "one SOURCE"),
    (["ingest", "--format", "mooncake", "missing.jsonl"], "missing.jsonl"),
    (["ingest", "--format", "dynamo-jsonl", "/"], "/: cannot be read: Is a directory"),
    (["ingest", "--format", "dynamo-jsonl", "-", "--sources", "x.yaml"], "--sources goes with"),
    (["ingest", "--format", "parquet", "x"], "parquet"),
    (["ingest", "--format", "mooncake", str(SAMPLE), "--workers", "0"], "--workers"),
    (["ingest", "--format", "mooncake", str(SAMPLE), "--partitions", "2"], "1 partitions"),
    (["ingest", "--format", "vllm-zmq"], "--sources FILE.yaml"),
    (["ingest", "--format", "vllm-zmq", "tcp://127.0.0.1:1?worker=7"], "worker"),
    (["ingest", "--format", "vllm-zmq", "tcp://127.0.0.1:1"], "worker_id=N is needed"),
    (["ingest", "--format", "vllm-zmq", "127.0.0.1:1"], "127.0.0.1:1"),
    (["ingest", "--format", "vllm-zmq", "--sources", "missing.yaml"], "missing.yaml"),
    (["ingest", "--format", "dynamo-zmq", "tcp://127.0.0.1:1?worker_id=7"], "topic="),
    (["ingest", "--format", "dynamo-nats", "nats://127.0.0.1:1/demo"], "/NAMESPACE/COMPONENT is needed"),
    (["ingest", "--format", "dynamo-nats", "nats://127.0.0.1:1/a/b?from=x"], "core or stream is needed"),
]


@pytest.mark.parametrize(
    ("command", "words"), MISUSES, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:50]
)
def test_what_cannot_work_as_it_was_written_is_named(cli: Cli, command: list[str], words: str) -> None:
    cli(*mooncake(requests=1))

    done = cli("router", *command, "--topic", "kv", stdin="[1]")

    assert (done.status, done.out) == (MISUSED, ""), done
    assert words in done.complaint


def test_a_block_size_other_than_the_topics_is_refused_by_name(cli: Cli) -> None:
    cli(*mooncake("--block-size", "512", requests=1))

    done = cli(*mooncake("--block-size", "16", requests=1))

    assert done.status == MISUSED
    assert "512 tokens, not 16" in done.complaint


def test_a_trace_that_breaks_off_is_named_and_what_came_before_is_durable(cli: Cli, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(SAMPLE.read_bytes()[:20_000])

    done = cli("router", "ingest", "--format", "mooncake", str(cut), "--topic", "kv")

    assert (done.status, done.out) == (FAILED, "")
    assert f"{cut}:" in done.complaint
    assert "damaged or cut" in done.complaint
    assert '"blocks_held": 0' not in cli("router", "rebuild", "--topic", "kv", "--json").out


def test_a_file_of_something_else_is_refused_line_by_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 40)

    done = cli("router", "ingest", "--format", "dynamo-jsonl", str(tmp_path / "noise"), "--topic", "kv")

    assert done.status == 3
    assert "refused and parked" in done.err


def test_a_snapshot_that_is_damaged_is_passed_over_and_named(cli: Cli, tmp_path: Path) -> None:
    objects = ["--objects", f"file://{tmp_path}/objects"]
    cli(*mooncake())
    cli("router", "snapshot", "--topic", "kv", *objects)
    bodies = [path for path in (tmp_path / "objects").rglob("*") if path.is_file() and path.stat().st_size > 5000]
    assert bodies
    for body in bodies:
        content = bytearray(body.read_bytes())
        content[len(content) // 2] ^= 1
        body.write_bytes(content)

    done = cli("router", "rebuild", "--topic", "kv", *objects)

    assert done.status == 0
    assert "offset 0" in done.out
    assert "passed over 1" in done.out


def test_a_port_that_is_taken_is_named(cli: Cli) -> None:
    cli(*mooncake(requests=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cli("router", "serve", "--topic", "kv", "--listen", address)

    assert (done.status, done.out) == (MISUSED, "")
    assert address in done.complaint
    assert "in use" in done.complaint


def test_records_that_are_no_events_are_counted_by_a_rebuild(cli: Cli, tmp_path: Path) -> None:
    ingest_lines(cli, tmp_path, jsonl(expected_events(5)))
    cli("log", "append", "kv", stdin="not an event\n")

    done = cli("router", "rebuild", "--topic", "kv")

    assert done.status == 0
    assert "rejected records" in done.out


def test_a_folder_in_place_of_a_file_of_hashes_is_named(cli: Cli, log_url: str, tmp_path: Path) -> None:
    cli("log", "create", "kv")
    done = cli("router", "match", "--topic", "kv", "--hashes", str(tmp_path))
    assert (done.status, done.complaint) == (1, f"{tmp_path}: Is a directory")


@pytest.mark.parametrize("source", ["127.0.0.1:1", "no-such-engine.invalid:5557"])
@pytest.mark.parametrize(("form", "option"), [("vllm-zmq", "?worker_id=7"), ("dynamo-zmq", "")])
def test_an_engine_that_is_never_reached_is_named_and_counted(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, source: str, form: str, option: str
) -> None:
    monkeypatch.setattr("dynlog.adapters.reach.UNREACHED_S", 0.05)
    ingest = ["router", "ingest", "--topic", "kv", "--idle", "1s", "--format", form, f"tcp://{source}{option}"]
    done = cli(*ingest, "--json")
    assert done.status == 0
    assert json.loads(done.out)["unreached"] == 1
    assert done.err.count(f"unreached at tcp://{source}") == 1
    assert "1 source" in next(line for line in cli(*ingest).lines if "unreached" in line)
