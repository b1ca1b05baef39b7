"""POST /match: what a frontend asks, in every form, and what it is told when it asks wrongly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dynlog.hashing import hash_tokens
from dynlog.kvevents import Tier
from dynlog.router.http import HttpSettings
from tests.router.served import BIG, FAST, PROMPT, SLOW, Served, fleet, served_router, stored

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    """One server for all tests that only ask."""
    async with served_router(*fleet()) as running:
        yield running


async def test_the_longest_match_comes_first_with_exact_64_bit_ids(served: Served) -> None:
    answer = await served.http.post("/match", json={"hashes": PROMPT})

    assert answer.json() == {
        "blocks": 4,
        "matches": [
            {"worker_id": FAST, "worker_id_str": "7", "dp_rank": 0, "blocks": 3},
            {"worker_id": SLOW, "worker_id_str": str(BIG), "dp_rank": 0, "blocks": 2},
        ],
        "ready": True,
        "stale_since_ms": None,
    }


async def test_hashes_as_decimal_strings_are_the_same_hashes(served: Served) -> None:
    mixed = [str(PROMPT[0]), PROMPT[1], str(PROMPT[2])]

    assert await served.match(hashes=mixed) == await served.match(hashes=PROMPT[:3]) == [(FAST, 0, 3), (SLOW, 0, 2)]


async def test_a_prompt_that_nobody_holds_has_no_match(served: Served) -> None:
    assert await served.match(hashes=[1, *PROMPT]) == []
    assert await served.match(hashes=[]) == []


async def test_limit_and_early_exit_leave_the_best(served: Served) -> None:
    assert await served.match(hashes=PROMPT, limit=1) == [(FAST, 0, 3)]
    assert await served.match(hashes=PROMPT, early_exit=True) == [(FAST, 0, 3)]


async def test_a_tier_is_searched_by_itself() -> None:
    async with served_router(*fleet(), stored(3, PROMPT[:1], dp_rank=2, tier=Tier.HOST_PINNED)) as served:
        assert await served.match(hashes=PROMPT, tier="host_pinned") == [(3, 2, 1)]
        assert await served.match(hashes=PROMPT) == [(FAST, 0, 3), (SLOW, 0, 2)]


async def test_a_batch_is_answered_in_its_order(served: Served) -> None:
    queries = [{"hashes": PROMPT[:1]}, {"hashes": [5]}, {"hashes": PROMPT}]

    answer = await served.http.post("/match", json={"queries": queries, "limit": 1})

    assert [[m["blocks"] for m in result["matches"]] for result in answer.json()["results"]] == [[1], [], [3]]
    assert [result["blocks"] for result in answer.json()["results"]] == [1, 1, 4]


async def test_tokens_are_hashed_as_dynamo_does() -> None:
    tokens = list(range(40))
    async with served_router(stored(1, hash_tokens(tokens, 16)), stored(2, hash_tokens(tokens, 16, "tuned"))) as served:
        assert await served.match(tokens=tokens, block_size=16) == [(1, 0, 2)]
        assert await served.match(tokens=tokens, block_size=16, lora="tuned") == [(2, 0, 2)]
        assert await served.match(tokens=tokens[:15], block_size=16) == []


async def test_the_topics_block_size_is_used_and_another_one_is_refused_by_name() -> None:
    tokens = list(range(32))
    async with served_router(stored(1, hash_tokens(tokens, 16)), settings=HttpSettings(block_size=16)) as served:
        assert await served.match(tokens=tokens) == [(1, 0, 2)]
        answer = await served.http.post("/match", json={"tokens": tokens, "block_size": 32})

    assert answer.status_code == 422
    assert answer.json()["field"] == "block_size"
    assert "16 tokens, not 32" in answer.json()["error"]


BAD_FIELDS = [
    ({}, "hashes", "missing"),
    ({"hashes": [1], "tokens": [1]}, "hashes", "not both"),
    ({"hashes": "1"}, "hashes", "a list of hashes is needed, not '1'"),
    ({"hashes": {"a": 1}}, "hashes", "an object of 1"),
    ({"hashes": [1, 2, -1]}, "hashes[2]", "not -1"),
    ({"hashes": [1, 2**64]}, "hashes[1]", "2^64-1"),
    ({"hashes": [1, 1.5]}, "hashes[1]", "not 1.5"),
    ({"hashes": [1, True]}, "hashes[1]", "not true"),
    ({"hashes": [None]}, "hashes[0]", "not null"),
    ({"hashes": [[1]]}, "hashes[0]", "a list of 1"),
    ({"hashes": ["1", ""]}, "hashes[1]", "''"),
    ({"hashes": ["-1"]}, "hashes[0]", "'-1'"),
    ({"hashes": ["18446744073709551616"]}, "hashes[0]", "18446744073709551616"),
    ({"hashes": ["١"]}, "hashes[0]", "\\u0661"),
    ({"hashes": ["\ud800"]}, "hashes[0]", "\\ud800"),
    ({"hashes": ["9" * 5000]}, "hashes[0]", "..."),
    ({"hashes": [10**400]}, "hashes[0]", "a number of 1329 bits"),
    ({"hashes": [1], "block_size": 16}, "block_size", "goes with tokens"),
    ({"hashes": [1], "tire": "disk"}, "tire", "known here are"),
    ({"hashes": [1], "\n": 1}, "\\n", "unknown"),
    ({"hashes": [1], "tier": "tape"}, "tier", "host_pinned"),
    ({"hashes": [1], "tier": ["device"]}, "tier", "a list of 1"),
    ({"hashes": [1], "limit": 0}, "limit", "above zero"),
    ({"hashes": [1], "limit": True}, "limit", "not true"),
    ({"hashes": [1], "early_exit": 1}, "early_exit", "true or false"),
    ({"tokens": [1, 2]}, "block_size", "missing"),
    ({"tokens": [1, 2], "block_size": 0}, "block_size", "above zero"),
    ({"tokens": [1, 2**32], "block_size": 16}, "tokens[1]", "2^32-1"),
    ({"tokens": ["1"], "block_size": 1}, "tokens[0]", "'1'"),
    ({"tokens": 5, "block_size": 1}, "tokens", "a list of token ids"),
    ({"tokens": [1], "block_size": 1, "lora": 5}, "lora", "a name"),
    ({"tokens": [1], "block_size": 1, "lora": "\ud800"}, "lora", "\\ud800"),
    ({"queries": {}}, "queries", "a list is needed"),
    ({"queries": [{}] * 1025}, "queries", "1025 prompts"),
    ({"queries": [7]}, "queries[0]", "not 7"),
    ({"queries": [{"hashes": [1]}, {"hashes": [1, -2]}]}, "queries[1].hashes[1]", "not -2"),
    ({"queries": [{"hashes": [1], "limit": 1}]}, "queries[0].limit", "unknown"),
    ({"queries": [], "hashes": [1]}, "hashes", "unknown"),
]


@pytest.mark.parametrize(("body", "field", "why"), BAD_FIELDS, ids=lambda value: ascii(value)[:40])
async def test_a_field_that_does_not_fit_is_named(served: Served, body: object, field: str, why: str) -> None:
    answer = await served.http.post("/match", content=json.dumps(body))

    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert why in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


NOT_JSON = [
    b"", b"  ", b"{", b"nonsense", b'{"hashes": [1,]}', b'{"hashes": [NaN]}', b'{"hashes": [Infinity]}', b"\xff\xfe{}",
    b"\x00" * 100, b'{"hashes": [' + b"1" * 10_000 + b"]}", b"[" * 500_000, b'{"hashes":' * 50_000,
    b'{"hashes": ' + b"[" * 2000 + b"]" * 2000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:12]))
async def test_what_is_not_json_is_refused_in_one_line(served: Served, body: bytes) -> None:
    answer = await served.http.post("/match", content=body)

    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) < 300


@pytest.mark.parametrize("body", [b"[]", b"7", b'"hashes"', b"null"])
async def test_json_that_is_no_object_is_refused(served: Served, body: bytes) -> None:
    answer = await served.http.post("/match", content=body)

    assert answer.status_code == 422
    assert "a JSON object is needed" in answer.json()["error"]
