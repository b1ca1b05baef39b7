"""`dynlog log compact`: what it shows before and after, what blocks it, what it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dynlog import Holder, HolderKind, Record, open_log
from dynlog.cli import log_compact
from dynlog.compaction import Compaction
from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def topic(cli: Cli) -> None:
    """Partition 0 has ten records of one key, partition 1 one record each of three keys."""
    assert cli("log", "create", "prices", "--partitions", "2").status == 0
    assert cli("log", "append", "prices", "--partition", "0", "--key", "a", stdin="x\n" * 9 + "newest\n").status == 0
    lines = "b:1\nc:1\nd:1\n"
    assert cli("log", "append", "prices", "--partition", "1", "--key-separator", ":", stdin=lines).status == 0


def hold(log_url: str, offset: int) -> None:
    async def work() -> None:
        async with open_log(log_url) as log:
            await log.hold("prices", Holder("slow", HolderKind.NAMED, {0: offset}))

    asyncio.run(work())


def compacted(cli: Cli, *options: str) -> list[dict[str, Any]]:
    done = cli("log", "compact", "prices", "--json", *options)
    assert done.status == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def records(cli: Cli, partition: int) -> list[dict[str, Any]]:
    lines = cli("log", "read", "prices", "--partition", str(partition), "--json").out.splitlines()
    return [json.loads(line) for line in lines]


def test_it_shows_every_partition_before_and_after_and_compacts_what_is_worth_it(cli: Cli) -> None:
    done = cli("log", "compact", "prices")
    assert (done.status, done.err) == (0, "")
    headings, first, second = done.out.splitlines()
    assert headings.split()[:5] == ["PARTITION", "RECORDS", "AFTER", "MOVED", "DIRTY"]
    assert first.split()[:5] == ["0", "10", "1", "1", "90.0%"]
    assert first.endswith("10  compacted")
    assert second.split()[:5] == ["1", "3", "-", "-", "0.0%"]
    assert second.endswith("nothing would go")
    (left,) = records(cli, 0)
    assert (left["offset"], left["key"], left["parts"], left["headers"]["dynlog-moved"]) == (10, "a", ["newest"], "9")


def test_as_json_it_says_what_was_and_what_is(cli: Cli) -> None:
    first, second = compacted(cli)
    assert (first["topic"], first["partition"], first["done"]) == ("prices", 0, True)
    assert (first["records"], first["removable"], first["moved"], first["records_after"]) == (10, 10, 1, 1)
    assert (first["earliest"], first["dirty"], first["blocked_by"], first["repeats"]) == (10, 0.9, [], False)
    assert first["bytes"] > 0
    assert (second["done"], second["records"], second["bytes"]) == (False, 3, second["bytes_after"])


def test_one_partition_alone_may_be_named(cli: Cli) -> None:
    assert [each["partition"] for each in compacted(cli, "--partition", "1")] == [1]
    assert len(records(cli, 0)) == 10
    missing = cli("log", "compact", "prices", "--partition", "2")
    assert (missing.status, "partition 2" in missing.complaint) == (1, True)


def test_a_dry_run_tells_what_would_go_and_changes_nothing(cli: Cli) -> None:
    done = cli("log", "compact", "prices", "--dry-run")
    assert "9 would go" in done.out
    assert len(records(cli, 0)) == 10
    plan, _ = compacted(cli, "--dry-run")
    assert (plan["done"], plan["removable"], plan["moved"]) == (False, 10, 1)


def test_less_than_the_ratio_is_left_alone_unless_forced(cli: Cli) -> None:
    done = cli("log", "compact", "prices", "--min-dirty", "0.95")
    assert (done.status, "too little would go" in done.out, len(records(cli, 0))) == (0, True, 10)
    assert compacted(cli, "--min-dirty", "0.95", "--force")[0]["done"]
    for ratio in ("1.1", "-1", "half"):
        assert cli("log", "compact", "prices", "--min-dirty", ratio).status == 2


def test_what_a_holder_keeps_is_named_with_the_holder(cli: Cli, log_url: str) -> None:
    hold(log_url, 6)
    done = cli("log", "compact", "prices")
    assert done.status == 0
    assert "what lies from offset 6 on is kept by slow (see 'dynlog log holders')" in done.err
    assert [record["offset"] for record in records(cli, 0)] == [6, 7, 8, 9]
    hold(log_url, 6)
    stuck = cli("log", "compact", "prices", "--force")
    assert (stuck.status, "slow" in stuck.err, "nothing would go" in stuck.out) == (0, True, True)


def test_records_that_were_moved_in_vain_make_exit_status_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def blocked(log: object, topic: str, partition: int, **options: Any) -> Compaction:
        return Compaction(topic, partition, False, 10, 11, 0, 1, 0.0, 100, 110, 0, 0, ("late",))

    monkeypatch.setattr(log_compact, "compact", blocked)
    done = cli("log", "compact", "prices", "--partition", "0")
    assert done.status == 3
    assert "moved, not truncated" in done.out
    assert "kept by late" in done.complaint


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_record_without_a_key_is_named_and_the_topic_left_as_it_is(cli: Cli, options: list[str]) -> None:
    assert cli("log", "append", "prices", "--partition", "0", stdin="keyless\n").status == 0
    done = cli("log", "compact", "prices", *options)
    assert (done.status, done.out) == (2, "")
    assert "offset 10 has no key" in done.complaint
    assert len(records(cli, 0)) == 11


def test_a_topic_that_is_not_there_is_named(cli: Cli) -> None:
    done = cli("log", "compact", "missing")
    assert (done.status, "missing" in done.complaint) == (1, True)


def test_a_bucket_is_left_to_the_command_that_knows_it(cli: Cli, log_url: str) -> None:
    async def work() -> None:
        async with open_log(log_url) as log:
            await log.create_topic("dynlog.kv.settings", labels={"dynlog.kv": "{}"})
            await log.append("dynlog.kv.settings", 0, [Record(key=b"k"), Record(key=b"k")])

    asyncio.run(work())
    done = cli("log", "compact", "dynlog.kv.settings")
    assert (done.status, done.out) == (2, "")
    assert "'dynlog kv compact settings'" in done.complaint


def test_a_time_that_is_none_is_wrong_usage(cli: Cli) -> None:
    assert cli("log", "compact", "prices", "--timeout", "soon").status == 2
    assert cli("log", "compact", "prices", "--timeout", "30s").status == 0
    assert "'0s' leaves no time" in cli("log", "compact", "prices", "--timeout", "0s").complaint
