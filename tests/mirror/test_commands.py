"""``dynlog mirror nats`` as an operator uses it."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from dynlog.log import Log
from dynlog.migrations.mirror.book import Page, open_book
from tests.cli.process import Dynlog, dynlog
from tests.mirror.sides import OldSide, append, bodies


async def test_a_mirror_follows_says_where_it_is_and_ends_in_order(old: OldSide, log: Log, log_url: str) -> None:
    common = ("--nats", old.url, "--log", log_url, "--topic", "t", "--stream", old.name)
    await old.publish("a", b"1", b"2")
    async with Dynlog.start("mirror", "nats", "--direction", "in", *common, "--json", "--every", "50ms") as command:
        line: dict[str, object] = {}
        async with asyncio.timeout(30):
            while line.get("copied") != 2:
                line = json.loads(await command.line())
        assert (line["direction"], line["source"], line["target"]) == ("in", old.name, "t")
        command.signal(signal.SIGTERM)
        outcome = await command.ended()
    assert (outcome.status, outcome.err) == (0, "")
    assert await bodies(log, "t") == [b"1", b"2"]
    status = await dynlog("mirror", "nats", "status", "--log", log_url, "--json")
    (mirror,) = json.loads(status.out)
    assert list(mirror["sequences"].values()) == [2]
    assert not mirror["cut_over"]


async def test_what_could_not_be_mirrored_makes_it_partial(old: OldSide, log: Log, log_url: str) -> None:
    await log.create_topic("t")
    await append(log, "t", b"no key")
    outcome = await dynlog(
        "mirror", "nats", "--direction", "out", "--nats", old.url, "--log", log_url, "--topic", "t",
        "--subject", f"{old.name}.*", "--once",
    )  # fmt: skip
    assert outcome.status == 3
    assert "no key that could say" in outcome.err
    assert "dynlog log read dynlog.mirror" in outcome.err
    said = json.loads((await dynlog("mirror", "nats", "status", "--log", log_url, "--json")).out)
    assert [(mirror["left_out_count"], [one["what"] for one in mirror["left_out"]]) for mirror in said] == [
        (1, ["0/0"])
    ]
    shown = (await dynlog("mirror", "nats", "status", "--log", log_url)).lines
    assert shown[-1].startswith(f"out topic:t -> {old.name}.*: 0/0: the record has no key")


async def test_the_status_names_some_of_what_was_left_out_and_counts_the_rest(log: Log, log_url: str) -> None:
    book = await open_book(log)
    page = Page(kind="progress", mirror="out t@1 a.*", direction="out", topic="t")
    await book.say(page)
    for offset in range(25):
        await book.say(page.model_copy(update={"kind": "left-out", "what": f"0/{offset}", "why": "no subject"}))
    await book.say(page.model_copy(update={"kind": "counted", "counts": {"left_out": 1_000_000}}))
    _, row, *named = (await dynlog("mirror", "nats", "status", "--log", log_url)).lines
    assert "1000025" in row
    assert named[:-1] == [f"out t -> a.*: 0/{offset}: no subject" for offset in range(20)]
    assert named[-1] == "out t -> a.*: and 1,000,005 more; --json names all that the book does"


async def test_a_cut_over_ends_the_mirror_that_runs(old: OldSide, log: Log, log_url: str) -> None:
    common = ("--nats", old.url, "--log", log_url, "--topic", "t", "--stream", old.name)
    await old.publish("a", b"1")
    async with Dynlog.start("mirror", "nats", "--direction", "in", *common, "--every", "50ms") as command:
        await command.line()
        done = await dynlog("mirror", "nats", "cutover", *common, "--watch", "300ms", "--json")
        assert (done.status, json.loads(done.out)["sequence"]) == (0, 1)
        outcome = await command.ended()
    assert outcome.status == 0
    assert "cut over at sequence 1" in outcome.err


async def test_a_cut_over_to_a_topic_that_the_stream_is_not_mirrored_into_copies_nothing(
    old: OldSide, log: Log, log_url: str
) -> None:
    await old.publish("a", b"1")
    await log.create_topic("other")
    refused = await dynlog(
        "mirror", "nats", "cutover", "--nats", old.url, "--log", log_url, "--topic", "other", "--stream", old.name,
        "--watch", "0s",
    )  # fmt: skip
    assert (refused.status, "takes nothing of stream" in refused.err) == (2, True)
    assert await bodies(log, "other") == []


async def test_a_rule_that_is_none_is_not_settled_for_ever(old: OldSide, log: Log, log_url: str) -> None:
    await old.publish("a", b"1")
    common = (
        "mirror", "nats", "--direction", "in", "--nats", old.url, "--log", log_url, "--topic", "t", "--stream",
        old.name, "--once",
    )  # fmt: skip
    assert (await dynlog(*common, "--partition-by", "subjects")).status == 2
    assert [topic.name for topic in await log.topics()] == []
    assert (await dynlog(*common)).status == 0
    assert await bodies(log, "t") == [b"1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs --direction"),
        (("--direction", "out"), "--subject"),
        (("--direction", "in"), "--stream"),
        (("--direction", "out", "--subject", "a", "--stream", "s"), "--direction in"),
        (("--direction", "in", "--subject", "a", "--once"), "--stream"),
    ],
)
def test_options_that_cannot_mean_anything_are_usage_errors(
    arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from dynlog.cli.app import main

    common = ("--nats", "nats://127.0.0.1:1", "--log", "memory://", "--topic", "t") if arguments else ()
    assert main(["mirror", "nats", *arguments, *common]) == 2
    assert said in capfd.readouterr().err
