"""``dynlog router``: ingest, rebuild, dump, match, snapshot, remove-worker, status, against an independent fold."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dynlog.adapters.mooncake import Chains, read_trace
from dynlog.hashing import hash_tokens
from dynlog.kvevents import Kind, KvEvent, pack_hashes
from dynlog.router.dump import load_events
from tests.cli.conftest import Cli
from tests.cli.router_fleet import (
    REQUESTS,
    SAMPLE,
    dump_of,
    dumped,
    expected_events,
    folded,
    ingest_lines,
    jsonl,
    mooncake,
)


def as_json(cli: Cli, *arguments: str, stdin: str | bytes = b"") -> dict[str, Any]:
    done = cli(*arguments, "--json", stdin=stdin)
    assert done.status == 0, done.err
    (line,) = done.lines
    value: dict[str, Any] = json.loads(line)
    return value


@pytest.fixture
def objects(tmp_path: Path) -> list[str]:
    return ["--objects", f"file://{tmp_path}/objects"]


def test_a_trace_becomes_the_events_of_a_fleet_and_they_the_state_of_a_router(cli: Cli) -> None:
    events = expected_events()

    summary = as_json(cli, *mooncake("--partitions", "3"))
    rebuilt = as_json(cli, "router", "rebuild", "--topic", "kv")

    blocks = sum(len(event.block_hashes) // 8 for event in events)
    assert (summary["events"], summary["blocks"], summary["rejected"], summary["repeats"]) == (
        len(events),
        blocks,
        0,
        0,
    )
    assert summary["seconds"] > 0
    index = folded(events)
    assert rebuilt["events"] == len(events)
    assert rebuilt["block_ops"] == blocks
    assert rebuilt["blocks_held"] == index.blocks_held
    assert rebuilt["started_from"] == "offset 0"
    assert rebuilt["seconds"] > 0
    assert dump_of(cli) == dumped(index)


def test_an_ingest_that_runs_twice_changes_nothing(cli: Cli) -> None:
    first = as_json(cli, *mooncake())
    before = dump_of(cli)

    second = as_json(cli, *mooncake())

    assert second["repeats"] == second["records"] == first["records"]
    assert as_json(cli, "router", "rebuild", "--topic", "kv")["events"] == first["events"]
    assert dump_of(cli) == before


def test_a_longer_run_goes_on_behind_a_shorter_one(cli: Cli) -> None:
    as_json(cli, *mooncake(requests=77))
    as_json(cli, *mooncake(requests=REQUESTS))

    assert dump_of(cli) == dumped(folded(expected_events()))


def test_the_shipped_sample_is_played_where_no_trace_is_named(cli: Cli) -> None:
    summary = as_json(
        cli, "router", "ingest", "--format", "mooncake", "--topic", "kv", "--requests", "50", "--idle", "9"
    )

    assert summary["events"] > 0


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_dynamos_own_events_come_from_files(cli: Cli, tmp_path: Path, form: str) -> None:
    events = expected_events()
    body, path = jsonl(events), tmp_path / ("events.jsonl.gz" if form == "gzip" else "events.jsonl")
    path.write_bytes(gzip.compress(body) if form == "gzip" else body)

    summary = as_json(cli, "router", "ingest", "--format", "dynamo-jsonl", str(path), "--topic", "kv")

    assert summary["events"] == len(events)
    assert dump_of(cli) == dumped(folded(events))


def test_a_trace_may_come_from_stdin(cli: Cli) -> None:
    line = json.dumps({"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]})

    summary = as_json(cli, "router", "ingest", "--format", "mooncake", "-", "--topic", "kv", stdin=line)

    assert summary["blocks"] == 2


def test_the_dump_as_lines_is_the_same_dump_and_loads(cli: Cli) -> None:
    cli(*mooncake())
    whole = dump_of(cli)

    lines = cli("router", "dump", "--topic", "kv", "--jsonl").lines

    assert [json.loads(line) for line in lines] == whole
    assert dumped(load_events(whole)) == whole


def test_a_rebuild_begins_at_the_snapshot_and_replays_only_what_came_after(cli: Cli, objects: list[str]) -> None:
    cli(*mooncake(requests=150))
    manifest = as_json(cli, "router", "snapshot", "--topic", "kv", *objects)
    cli(*mooncake())

    rebuilt = as_json(cli, "router", "rebuild", "--topic", "kv", *objects)

    events, tail = expected_events(), len(expected_events()) - len(expected_events(150))
    assert rebuilt["started_from"] == f"snapshot {manifest['id']}"
    assert rebuilt["events"] == tail
    assert rebuilt["total_events"] == len(events)
    assert rebuilt["blocks_held"] == folded(events).blocks_held
    assert dump_of(cli, *objects) == dump_of(cli) == dumped(folded(events))


def test_match_answers_each_line_with_the_best_first(cli: Cli) -> None:
    cli(*mooncake())
    index = folded(expected_events())
    prompts = [
        [block.tokens_hash for block in Chains().of(request)] for request in islice(read_trace(SAMPLE), REQUESTS)
    ]
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)

    answers = cli("router", "match", "--topic", "kv", "--hashes", "-", stdin=lines).lines

    assert len(answers) == len(prompts) == REQUESTS
    for prompt, answer in zip(prompts, map(json.loads, answers), strict=True):
        assert answer["blocks"] == len(prompt)
        found = {(m["worker_id"], m["dp_rank"]): m["blocks"] for m in answer["matches"]}
        assert found == index.find_matches(prompt)
        lengths = [match["blocks"] for match in answer["matches"]]
        assert lengths == sorted(lengths, reverse=True)


def test_match_takes_files_limits_and_decimal_strings(cli: Cli, tmp_path: Path) -> None:
    event = KvEvent(2**64 - 1, Kind.STORED, pack_hashes([1, 2]), pack_hashes([2**63, 2**63 + 1]))
    ingest_lines(cli, tmp_path, jsonl([event, event._replace(worker_id=5)]))
    (tmp_path / "prompts").write_text(f'["{2**63}", {2**63 + 1}, 7]\n[]')

    answers = cli("router", "match", "--topic", "kv", "--hashes", str(tmp_path / "prompts"), "--limit", "1").lines

    assert [json.loads(answer) for answer in answers] == [
        {"blocks": 3, "matches": [{"worker_id": 5, "worker_id_str": "5", "dp_rank": 0, "blocks": 2}]},
        {"blocks": 0, "matches": []},
    ]


def test_tokens_are_matched_in_blocks_of_the_topics_size(cli: Cli, tmp_path: Path) -> None:
    tokens = list(range(48))
    hashes = pack_hashes(hash_tokens(tokens, 16))
    event = KvEvent(9, Kind.STORED, pack_hashes([1, 2, 3]), hashes)
    ingest_lines(cli, tmp_path, jsonl([event]), "--block-size", "16")

    answer = cli("router", "match", "--topic", "kv", "--tokens", "-", stdin=json.dumps(tokens))
    wrong = cli("router", "match", "--topic", "kv", "--tokens", "-", "--block-size", "32", stdin=json.dumps(tokens))

    assert json.loads(answer.out)["matches"][0]["blocks"] == 3
    assert wrong.status == 2
    assert "16 tokens, not 32" in wrong.complaint


def test_a_removed_worker_stays_gone_after_a_rebuild(cli: Cli, objects: list[str]) -> None:
    cli(*mooncake())
    cli("router", "snapshot", "--topic", "kv", *objects)

    removed = as_json(cli, "router", "remove-worker", "0x2", "--topic", "kv")
    cli("router", "remove-worker", "3", "--topic", "kv")

    assert (removed["worker_id"], removed["worker_id_str"], removed["partition"]) == (2, "2", 0)
    assert {event["worker_id"] for event in dump_of(cli, *objects)} == {0, 1}


def test_status_says_what_a_rebuild_would_find(cli: Cli, objects: list[str]) -> None:
    cli(*mooncake("--block-size", "512", requests=150))
    manifest = as_json(cli, "router", "snapshot", "--topic", "kv", *objects)
    cli(*mooncake())

    status = as_json(cli, "router", "status", "--topic", "kv")

    (snapshot,) = status["snapshots"]
    assert (snapshot["id"], snapshot["verified"]) == (manifest["id"], True)
    assert snapshot["records_behind"] == status["records"] - manifest["positions"]["0"] > 0
    assert (status["block_size"], status["rejected"], status["starts_at_zero"]) == (512, 0, True)
    assert [holder["name"] for holder in status["holders"]] == ["snapshot:router"]
    table = cli("router", "status", "--topic", "kv").out
    assert manifest["id"] in table


def test_no_command_leaves_a_holder_behind(cli: Cli) -> None:
    cli(*mooncake())
    for command in (["rebuild"], ["dump"], ["match", "--hashes", "-"]):
        assert cli("router", *command, "--topic", "kv", stdin="[1]").status == 0

    assert as_json(cli, "router", "status", "--topic", "kv")["holders"] == []


def test_malformed_lines_are_named_parked_and_make_the_status_3(cli: Cli, tmp_path: Path) -> None:
    good = expected_events(20)
    body = jsonl(good[:5]) + b"{nonsense\n" + jsonl(good[5:]) + b'{"worker_id": -1, "event": {}}\n'

    done = ingest_lines(cli, tmp_path, body, "--json")

    assert done.status == 3
    assert json.loads(done.out)["rejected"] == 2
    assert json.loads(done.out)["events"] == len(good)
    assert "line 6: not JSON" in done.err
    assert "2 events were refused and parked" in done.err
    parked = cli("log", "read", "kv.rejected").lines
    assert len(parked) == 2
    assert dump_of(cli) == dumped(folded(good))
    assert as_json(cli, "router", "status", "--topic", "kv")["rejected"] == 2


def test_every_command_teaches(cli: Cli) -> None:
    for command in ("ingest", "rebuild", "dump", "match", "snapshot", "remove-worker", "status", "serve"):
        done = cli("router", command, "--help")
        assert done.status == 0
        assert "--topic" in done.out
