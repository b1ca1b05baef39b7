"""Topics, holders, truncation, damage, copies: what is done to a log on purpose, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dynlog import Holder, HolderKind, open_log
from tests.cli.conftest import Cli

NEEDLE = b"a needle in the log"


@pytest.fixture(autouse=True)
def topic(cli: Cli) -> None:
    """A topic with ten records in partition 0 and none in partition 1."""
    assert cli("log", "create", "events", "--partitions", "2").status == 0
    assert cli("log", "append", "events", "--partition", "0", stdin="x\n" * 10).status == 0


def hold(log_url: str, name: str, offset: int) -> None:
    async def work() -> None:
        async with open_log(log_url) as log:
            await log.hold("events", Holder(name, HolderKind.NAMED, {0: offset}))

    asyncio.run(work())


def described(cli: Cli) -> dict[str, Any]:
    done = cli("log", "describe", "events", "--json")
    assert (done.status, done.err) == (0, "")
    picture: dict[str, Any] = json.loads(done.out)
    return picture


def damage(log_url: str) -> None:
    """Flips one bit in the middle of a record's body."""
    path = Path(log_url.removeprefix("sqlite://"))
    for file in (path, path.with_name(f"{path.name}-wal")):
        content = bytearray(file.read_bytes()) if file.exists() else bytearray()
        if (at := content.rfind(NEEDLE)) >= 0:
            content[at + 5] ^= 1
            file.write_bytes(content)
            return
    raise AssertionError("the body is nowhere")


def test_topics_as_json_is_a_list_of_objects_with_their_names(cli: Cli) -> None:
    options = ["--retention-age", "7d", "--retention-bytes", "10GiB", "--label", "owner=a=b"]
    assert cli("log", "create", "audit", *options).status == 0
    found = {topic["name"]: topic for topic in json.loads(cli("log", "topics", "--json").out)}
    assert found["audit"]["retention"] == {"max_age_s": 604800, "max_bytes": 10 << 30}
    assert found["audit"]["labels"] == {"owner": "a=b"}
    assert (found["events"]["partitions"], found["events"]["records"]) == (2, 10)
    assert found["events"]["bytes"] > 0


def test_creating_a_topic_twice_is_refused_unless_that_is_fine(cli: Cli) -> None:
    again = cli("log", "create", "events", "--partitions", "2")
    assert again.status == 1
    assert "events" in again.complaint
    assert cli("log", "create", "events", "--partitions", "2", "--exist-ok").status == 0
    assert cli("log", "create", "events", "--partitions", "3", "--exist-ok").status == 1


def test_describe_says_what_the_engine_promises(cli: Cli, log_url: str) -> None:
    picture = described(cli)
    assert picture["url"] == log_url
    assert picture["capabilities"]["engine"] == "sqlite"
    assert picture["capabilities"]["durability"] == "disk"
    for words in ("durability", "disk", "nothing blocks truncation"):
        assert words in cli("log", "describe", "events").out


def test_describe_names_the_slowest_holder_of_each_partition_as_what_blocks_truncation(cli: Cli, log_url: str) -> None:
    hold(log_url, "quick", 8)
    hold(log_url, "slow", 3)
    first, second = described(cli)["topics"][0]["partitions_now"]
    assert (first["truncates_to"], first["blocked_by"]) == (3, ["slow"])
    assert (second["truncates_to"], second["blocked_by"]) == (0, [])


def test_describe_shows_lag_and_expiry_of_holders(cli: Cli, log_url: str) -> None:
    hold(log_url, "slow", 3)
    (holder,) = described(cli)["topics"][0]["holders"]
    assert (holder["name"], holder["kind"], holder["positions"]) == ("slow", "named", {"0": 3})
    assert (holder["lag_records"], holder["expired"]) == (7, False)
    assert holder["expires"] > holder["last_seen"]


def test_a_truncation_that_a_holder_blocks_goes_as_far_as_it_may_names_it_and_exits_3(cli: Cli, log_url: str) -> None:
    hold(log_url, "slow", 3)
    done = cli("log", "truncate", "events", "--partition", "0", "--before", "8", "--json")
    assert done.status == 3
    assert json.loads(done.out) == {
        "topic": "events",
        "partition": 0,
        "earliest": 3,
        "requested": 8,
        "blocked_by": ["slow"],
    }
    assert "slow" in done.complaint


def test_a_forced_truncation_goes_past_holders_and_leaves_an_event(cli: Cli, log_url: str) -> None:
    hold(log_url, "slow", 3)
    assert cli("log", "truncate", "events", "--partition", "0", "--before", "8", "--force").status == 0
    picture = described(cli)["topics"][0]
    assert picture["partitions_now"][0]["earliest"] == 8
    assert picture["events"]


def test_a_released_holder_blocks_no_longer(cli: Cli, log_url: str) -> None:
    hold(log_url, "slow", 3)
    assert [holder["name"] for holder in json.loads(cli("log", "holders", "events", "--json").out)] == ["slow"]
    assert json.loads(cli("log", "holders", "events", "--release", "slow", "--json").out) == []
    assert cli("log", "truncate", "events", "--partition", "0", "--before", "8").status == 0


def test_releasing_a_holder_that_is_none_says_who_there_is(cli: Cli, log_url: str) -> None:
    hold(log_url, "slow", 3)
    done = cli("log", "holders", "events", "--release", "solw")
    assert done.status == 1
    assert "slow" in done.complaint


def test_truncating_beyond_the_end_is_refused_and_removes_nothing(cli: Cli) -> None:
    done = cli("log", "truncate", "events", "--partition", "0", "--before", "11")
    assert (done.status, done.out) == (1, "")
    assert "11" in done.complaint
    assert len(cli("log", "read", "events").lines) == 10


def test_verify_says_that_a_sound_log_is_sound(cli: Cli) -> None:
    done = cli("log", "verify")
    assert (done.status, done.err) == (0, "")
    assert "sound" in done.out
    assert json.loads(cli("log", "verify", "--json").out) == []
    missing = cli("log", "verify", "nothing")
    assert missing.status == 1
    assert "nothing" in missing.complaint


def test_verify_names_the_damage_and_repair_sets_it_aside_only_when_told_to(cli: Cli, log_url: str) -> None:
    cli("log", "append", "events", "--partition", "1", stdin=NEEDLE)
    cli("log", "append", "events", "--partition", "1", stdin="after\n")
    damage(log_url)

    done = cli("log", "verify", "--json")
    assert done.status == 1
    (found,) = json.loads(done.out)
    assert (found["topic"], found["partition"], found["start"], found["end"]) == ("events", 1, 0, 1)

    reading = cli("log", "read", "events", "--partition", "1")
    assert (reading.status, reading.out) == (1, "")
    assert "events" in reading.complaint

    explained = cli("log", "repair")
    assert explained.status == 1
    assert "--quarantine" in explained.complaint
    assert cli("log", "verify").status == 1, "an explanation changes nothing"

    repaired = cli("log", "repair", "--quarantine", "--json")
    assert repaired.status == 0
    assert json.loads(repaired.out) == [found]
    assert cli("log", "verify").status == 0
    assert cli("log", "read", "events", "--partition", "1").lines[0].endswith("after")
    assert any(event["kind"] for event in described(cli)["topics"][0]["events"])


def test_accepting_a_loss_needs_the_word_quarantine_as_well(cli: Cli) -> None:
    done = cli("log", "repair", "--accept-loss")
    assert done.status == 2
    assert "--quarantine" in done.complaint


def test_a_backup_opens_as_a_log_of_its_own(cli: Cli, tmp_path: Path) -> None:
    done = cli("log", "backup", str(tmp_path / "copy.db"), "--json")
    assert done.status == 0
    assert json.loads(done.out)["path"] == str(tmp_path / "copy.db")
    assert len(cli("log", "read", "events", "--log", f"sqlite://{tmp_path}/copy.db").lines) == 10
    again = cli("log", "backup", str(tmp_path / "copy.db"))
    assert again.status == 1
    assert "exists already" in again.complaint


def test_a_topic_is_only_deleted_when_that_was_confirmed(cli: Cli) -> None:
    done = cli("log", "delete", "events")
    assert done.status == 2
    assert "--yes" in done.complaint
    assert len(cli("log", "read", "events").lines) == 10
    assert cli("log", "delete", "events", "--yes").status == 0
    assert cli("log", "read", "events").status == 1


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_log_is_named_by_verify_and_goes_on_after_repair(cli: Cli, log_url: str, share: float) -> None:
    cli("log", "append", "events", "--partition", "1", stdin="".join(f"{n} {'y' * 500}\n" for n in range(300)))
    for _ in range(9):
        cli("log", "append", "events", "--partition", "1", stdin="z" * 9000)
    path = Path(log_url.removeprefix("sqlite://"))
    size = int(path.stat().st_size * share)
    os.truncate(path, size)

    listing = cli("log", "topics")
    assert listing.status == 1
    assert f"truncated: {size} bytes" in listing.complaint
    assert "dynlog log verify" in listing.complaint
    for looking in (["verify"], ["repair"]):
        done = cli("log", *looking, "--json")
        assert done.status == 1
        assert "truncated" in json.loads(done.out)[0]["reason"]
        assert any(found["partition"] == 1 for found in json.loads(done.out))
        assert "run 'dynlog log verify'" not in done.out + done.err
    assert path.stat().st_size == size, "looking changes nothing"

    assert cli("log", "repair", "--quarantine").status == 0
    assert cli("log", "verify").status == 0
    kept = cli("log", "read", "events", "--partition", "0").lines
    assert len(kept) == (10 if share > 0.5 else 0), "their page lies behind the large records that came later"
    before = len(cli("log", "read", "events", "--partition", "1").lines)
    assert cli("log", "append", "events", "--partition", "1", stdin="on\n").status == 0
    assert len(cli("log", "read", "events", "--partition", "1").lines) == before + 1
    assert "truncated" in str(described(cli)["topics"][0]["events"])


@pytest.mark.parametrize("size", [0, 10, 100, 3000, 4096])
def test_where_nothing_can_be_salvaged_every_command_says_so_and_advises_a_backup(
    cli: Cli, log_url: str, size: int
) -> None:
    path = Path(log_url.removeprefix("sqlite://"))
    os.truncate(path, size)
    for command in (["verify"], ["repair"], ["repair", "--quarantine"], ["repair", "--quarantine", "--accept-loss"]):
        done = cli("log", *command)
        assert (done.status, done.out) == (1, "")
        assert "restore a backup" in done.complaint
        assert "run 'dynlog log verify'" not in done.complaint
        assert path.stat().st_size == size
