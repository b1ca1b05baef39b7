"""`dynlog group`, `dynlog log lag`, `dynlog dlq` and `dynlog log copy`: what they show, change and refuse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dynlog import open_log
from dynlog.consumer import Consumer
from dynlog.intake import ConsumerSettings
from dynlog.retry import RetryPolicy
from tests.cli.conftest import Cli
from tests.cli.process import PATIENCE_S, Outcome, dynlog

LETTERS = "bad\ngood\nworse\n"


@pytest.fixture(autouse=True)
def consumed(cli: Cli, log_url: str) -> None:
    """Three records, of which the group could not handle the first and the third, and two that it has not seen."""
    assert cli("log", "create", "orders").status == 0
    assert cli("log", "append", "orders", "--partition", "0", stdin=LETTERS).status == 0

    async def work() -> None:
        settings = ConsumerSettings(retry=RetryPolicy(max_attempts=1))
        async with (
            open_log(log_url) as log,
            Consumer.open(log, "orders", group="billing", settings=settings) as consumer,
        ):
            for _ in range(3):
                delivery = await consumer.next(PATIENCE_S)
                assert delivery is not None
                if delivery.record.parts[0] == b"good":
                    await delivery.ack()
                else:
                    await delivery.nack(error=ValueError("no such order"))

    asyncio.run(work())
    assert cli("log", "append", "orders", "--partition", "0", stdin="x\ny\n").status == 0


def from_json(cli: Cli, *arguments: str) -> Any:
    done = cli(*arguments, "--json")
    assert (done.status, done.err) == (0, ""), done.err
    return json.loads(done.out)


def test_group_list_and_lag_show_how_far_a_group_is_behind(cli: Cli) -> None:
    (group,) = from_json(cli, "group", "list")
    assert (group["topic"], group["group"], group["members"]) == ("orders", "billing", [])
    (lag,) = from_json(cli, "log", "lag", "orders")
    assert (lag["group"], lag["position"], lag["end"], lag["records"]) == ("billing", 3, 5, 2)
    assert lag["seconds"] >= 0
    table = cli("log", "lag").lines
    assert table[0].split() == ["TOPIC", "GROUP", "PARTITION", "POSITION", "END", "LAG", "LAG", "SECONDS"]
    assert table[1].split()[:6] == ["orders", "billing", "0", "3", "5", "2"]


def test_group_describe_shows_generation_and_positions(cli: Cli) -> None:
    group = from_json(cli, "group", "describe", "orders", "billing")
    assert group["generation"] >= 1
    assert group["partitions"][0]["position"] == 3
    assert "billing" in cli("group", "describe", "orders", "billing").out


@pytest.mark.parametrize(("to", "position"), [("earliest", 0), ("end", 5), ("15m", 0), ("2", 2)])
def test_group_seek_moves_a_group_and_dry_run_only_shows_it(cli: Cli, to: str, position: int) -> None:
    command = ["group", "seek", "orders", "billing", "--to", to, "--partition", "0"]
    assert from_json(cli, *command, "--dry-run")["positions"] == {"0": position}
    assert from_json(cli, "log", "lag")[0]["position"] == 3
    assert from_json(cli, *command)["positions"] == {"0": position}
    assert from_json(cli, "log", "lag")[0]["position"] == position


async def refusals(log_url: str) -> list[Outcome]:
    async with open_log(log_url) as log, Consumer.open(log, "orders", group="billing"):
        seek = await dynlog("group", "seek", "orders", "billing", "--to", "end", "--log", log_url)
        return [seek, await dynlog("group", "remove", "orders", "billing", "--log", log_url)]


def test_group_seek_and_remove_are_refused_while_a_member_is_alive(cli: Cli, log_url: str) -> None:
    for refused in asyncio.run(refusals(log_url)):
        assert refused.status == 1
        assert "has a live member" in refused.complaint
    assert from_json(cli, "log", "lag")[0]["position"] == 3


def test_group_remove_forgets_the_group(cli: Cli) -> None:
    assert cli("group", "remove", "orders", "billing").out == "group billing on orders removed\n"
    assert from_json(cli, "group", "list") == []
    assert [topic["name"] for topic in from_json(cli, "log", "topics")] == ["orders", "orders.dead"]


def test_groups_of_a_topic_that_was_deleted_are_shown_as_orphaned_and_removed_together(cli: Cli) -> None:
    assert from_json(cli, "group", "list")[0]["orphaned"] is False
    assert cli("log", "delete", "orders", "--yes").status == 0
    (group,) = from_json(cli, "group", "list", "--topic", "orders")
    assert (group["topic"], group["group"], group["members"], group["orphaned"]) == ("orders", "billing", [], True)
    assert cli("group", "list").lines[1].split() == ["orders", "billing", "-", "-", "-", "orphaned"]
    assert from_json(cli, "log", "lag") == []
    assert cli("group", "remove", "--orphaned").out == "group billing on orders removed\n"
    assert cli("group", "remove", "--orphaned").out == "no orphaned groups\n"
    assert from_json(cli, "group", "list") == from_json(cli, "group", "remove", "--orphaned") == []


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (("group", "describe", "orders", "nobody"), 2, "no group 'nobody'"),
        (("group", "describe", "nothing", "billing"), 1, "no such topic"),
        (("group", "seek", "orders", "billing", "--to", "4"), 2, "--partition"),
        (("group", "seek", "orders", "billing", "--to", "9", "--partition", "0"), 1, "beyond the end"),
        (("group", "seek", "orders", "billing", "--to", "end", "--partition", "7"), 1, "partitions 0 to 0"),
        (("group", "seek", "orders", "billing", "--to", "noon"), 2, "an age like 15m"),
        (("group", "remove", "orders"), 2, "--orphaned"),
        (("group", "remove", "--orphaned", "--force"), 2, "--force"),
        (("group", "list", "--topic", "nothing"), 1, "no such topic"),
        (("dlq", "show", "orders", "0/99"), 2, "no letter '0/99'"),
        (("dlq", "replay", "orders"), 2, "--all"),
        (("dlq", "drop", "orders", "0/0", "--all"), 2, "--all"),
        (("log", "lag", "nothing"), 1, "no such topic"),
        (("log", "copy", "/tmp/a.db", "memory://"), 2, "not a URL"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(cli: Cli, command: tuple[str, ...], status: int, said: str) -> None:
    refused = cli(*command)
    assert refused.status == status
    assert said in refused.complaint


def test_dlq_list_and_show_tell_the_story(cli: Cli) -> None:
    first, second = from_json(cli, "dlq", "list", "orders")
    assert (first["group"], first["partition"], first["offset"], first["attempts"]) == ("billing", 0, 0, 1)
    assert first["error"] == "ValueError: no such order"
    assert second["offset"] == 2
    shown = from_json(cli, "dlq", "show", "orders", first["letter"])
    assert shown["record"]["parts"] == ["bad"]
    assert "bad" in cli("dlq", "show", "orders", first["letter"]).out


def test_dlq_replay_sends_a_letter_back_once_and_drop_closes_one(cli: Cli) -> None:
    first, second = (letter["letter"] for letter in from_json(cli, "dlq", "list", "orders"))
    assert from_json(cli, "dlq", "replay", "orders", first) == {"replayed": [first], "already": []}
    assert from_json(cli, "dlq", "replay", "orders", first) == {"replayed": [], "already": [first]}
    assert cli("log", "read", "orders").out.count("bad") == 1 + 1
    assert from_json(cli, "dlq", "drop", "orders", "--all") == {"dropped": [second], "already": []}
    assert from_json(cli, "dlq", "list", "orders") == []
    states = [letter["outcome"] for letter in from_json(cli, "dlq", "list", "orders", "--everything")]
    assert states == ["replayed", "dropped"]


def test_log_copy_moves_a_log_with_its_groups_and_adds_only_what_is_new(cli: Cli, log_url: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/copy.db"
    first = {row["topic"]: row for row in from_json(cli, "log", "copy", log_url, target, "--verify")}
    assert (first["orders"]["copied"], first["orders"]["verified"], first["orders"]["groups"]) == (5, 5, ["billing"])
    assert first["orders.dead"]["copied"] == 2
    assert cli("log", "append", "orders", stdin="z\n").status == 0
    (again,) = from_json(cli, "log", "copy", log_url, target, "--topic", "orders")
    assert (again["copied"], again["already"]) == (1, 5)
    (lag,) = from_json(cli, "log", "lag", "orders", "--log", target)
    assert (lag["position"], lag["end"]) == (3, 6)
    texts = [json.loads(line)["parts"][0] for line in cli("log", "read", "orders", "--json", "--log", target).lines]
    assert texts == ["bad", "good", "worse", "x", "y", "z"]


def test_dlq_show_shows_the_record_as_it_was(cli: Cli) -> None:
    shown = from_json(cli, "dlq", "show", "orders", "0/0")
    assert shown["record"]["headers"] == {}
    assert "outcome    open" in cli("dlq", "show", "orders", "0/0").out


def test_a_seek_names_its_own_option_and_the_end(cli: Cli) -> None:
    done = cli("group", "seek", "orders", "billing", "--to", "tomorrow")
    assert (done.status, "--to 'tomorrow'" in done.err) == (2, True), done.err
    done = cli("group", "seek", "orders", "billing", "--to", "99", "--partition", "0")
    assert (done.status, "which is 5" in done.err) == (1, True), done.err
