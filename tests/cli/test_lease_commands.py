"""`dynlog lease ls`: what it shows and refuses."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from dynlog.kv import open_kv
from dynlog.kv.records import Beat, Grant
from dynlog.open import open_log
from dynlog.timing import SYSTEM_CLOCK, ManualClock
from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def fleet(cli: Cli, log_url: str) -> None:
    """Two leases whose holders are in the middle of a long TTL, one with four keys; and a bucket without any."""

    async def fill() -> None:
        async with open_log(log_url) as log, open_kv(log) as kv:
            bucket = await kv.create("fleet")
            await kv.create("empty")
            await bucket.say(Grant("one", 60_000, "worker 7"))
            await bucket.say(Grant("another", 90_000, "router"))
            for n in range(4):
                await bucket.put(f"k{n}", b"here", lease="one")

    asyncio.run(fill())


def test_leases_are_listed_with_their_holders_and_keys(cli: Cli) -> None:
    said = cli("lease", "ls", "--json")
    assert (said.status, said.err) == (0, "")
    one, another = json.loads(said.out)
    assert list(one) == [
        "bucket",
        "lease",
        "owner",
        "token",
        "ttl_ms",
        "granted",
        "heard",
        "last_beat",
        "silent_ms",
        "overdue",
        "keys",
    ]
    assert (one["bucket"], one["lease"], one["owner"], one["token"], one["ttl_ms"], one["heard"]) == (
        "fleet", "one", "worker 7", 0, 60_000, 0,
    )  # fmt: skip
    assert one["keys"] == ["k0", "k1", "k2", "k3"]
    assert (another["lease"], another["token"], another["keys"]) == ("another", 1, [])
    assert (one["last_beat"], one["overdue"], another["overdue"]) == (one["granted"], False, False)


@pytest.fixture
def forgotten(fleet: None, log_url: str) -> None:
    """A lease of a process that was gone long ago, in a bucket that nobody has had open since."""

    async def fill() -> None:
        an_hour_ago = ManualClock(SYSTEM_CLOCK.time_ms() - 3_600_000)
        async with open_log(log_url.replace("events", "old"), clock=an_hour_ago) as log, open_kv(log) as kv:
            bucket = await kv.create("fleet")
            await bucket.say(Grant("dead", 60_000, "worker 9"))
            await bucket.say(Beat("its process", ("dead",)))
            await bucket.say(Grant("patient", 86_400_000, "worker 10"))

    asyncio.run(fill())


def test_a_lease_whose_process_is_gone_is_listed_as_overdue_while_nobody_listens(
    forgotten: None, cli: Cli, log_url: str
) -> None:
    old = log_url.replace("events", "old")
    dead, patient = json.loads(cli("lease", "ls", "--json", "--log", old).out)
    assert (dead["lease"], dead["heard"], dead["overdue"]) == ("dead", 1, True)
    assert 3_600_000 <= dead["silent_ms"] < 3_700_000
    assert (patient["lease"], patient["overdue"]) == ("patient", False)
    _, first, second = cli("lease", "ls", "--log", old).lines
    assert re.search(r"  36\d\d\.\ds ago, overdue  -$", first)
    assert re.search(r"  36\d\d\.\ds ago +-$", second)


def test_of_a_heartbeat_that_a_compaction_took_away_it_is_said_how_long_ago_it_is_at_least(cli: Cli) -> None:
    assert cli("kv", "compact", "fleet").status == 0
    one, another = json.loads(cli("lease", "ls", "--json").out)
    assert (one["last_beat"], another["last_beat"], one["overdue"]) == (None, None, False)
    assert re.search(r"  over \d\.\ds ago  ", cli("lease", "ls").lines[1])


def test_the_table_shortens_what_is_long(cli: Cli) -> None:
    said = cli("lease", "ls", "fleet")
    assert (said.status, said.err) == (0, "")
    assert said.lines[0].split() == ["BUCKET", "LEASE", "OWNER", "TOKEN", "TTL", "GRANTED", "LAST", "BEAT", "KEYS"]
    assert said.lines[1].endswith("k0, k1, k2 and 1 more")
    assert said.lines[2].split()[-1] == "-"
    assert cli("lease", "ls", "empty").out == "no leases\n"


def test_a_bucket_that_does_not_exist_is_an_error_and_is_not_made(cli: Cli) -> None:
    said = cli("lease", "ls", "nope")
    assert (said.status, said.out) == (1, "")
    assert "nope" in said.err
    assert len(said.err.splitlines()) == 1
    assert "nope" not in cli("kv", "buckets").out
    assert "leaves no time" in cli("lease", "ls", "--timeout", "0s").complaint
