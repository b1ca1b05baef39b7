"""`dynlog lease ls`: what it shows and refuses."""

from __future__ import annotations

import asyncio
import json

import pytest

from dynlog.kv import open_kv
from dynlog.kv.records import Grant
from dynlog.open import open_log
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
    assert list(one) == ["bucket", "lease", "owner", "token", "ttl_ms", "granted", "heard", "keys"]
    assert (one["bucket"], one["lease"], one["owner"], one["token"], one["ttl_ms"], one["heard"]) == (
        "fleet", "one", "worker 7", 0, 60_000, 0,
    )  # fmt: skip
    assert one["keys"] == ["k0", "k1", "k2", "k3"]
    assert (another["lease"], another["token"], another["keys"]) == ("another", 1, [])


def test_the_table_shortens_what_is_long(cli: Cli) -> None:
    said = cli("lease", "ls", "fleet")
    assert (said.status, said.err) == (0, "")
    assert said.lines[0].split() == ["BUCKET", "LEASE", "OWNER", "TOKEN", "TTL", "GRANTED", "HEARD", "KEYS"]
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
