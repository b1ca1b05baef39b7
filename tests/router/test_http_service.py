"""The rest of the service: health and readiness, workers, dump, metrics, and the pages that describe it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import pytest

from dynlog import Batch, Position, open_log, open_objects
from dynlog.errors import LogUnavailable
from dynlog.kvevents import Kind, KvEvent
from dynlog.record import Record
from dynlog.router.dump import load_events
from dynlog.router.http import HttpSettings
from dynlog.router.http_models import MATCH_EXAMPLES
from tests.faulty import FaultyLog
from tests.router.served import BIG, FAST, PROMPT, SLOW, TOPIC, Served, append, fleet, served_router, stored


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with served_router(*fleet()) as running:
        yield running


class Unread(FaultyLog):
    """A log that can be looked at but not read, until it is told otherwise."""

    readable = False

    async def read(self, position: Position, **options: Any) -> Batch:
        if not self.readable:
            raise LogUnavailable("the disk is away")
        return await super().read(position, **options)


async def until_stale(served: Served) -> None:
    async with asyncio.timeout(10):
        while served.router.status().stale_since_ms is None:  # noqa: ASYNC110 (the router tells nobody)
            await asyncio.sleep(0.01)


async def test_it_is_alive_but_not_ready_while_it_rebuilds() -> None:
    async with open_log("memory://") as real:
        await real.create_topic(TOPIC)
        await append(real, *fleet())
        unread = Unread(real)
        async with served_router(log=unread.log, ready=False) as served:
            alive, ready = await served.http.get("/healthz"), await served.http.get("/readyz")
            assert alive.status_code == 200
            assert ready.status_code == 503
            assert ready.json()["reason"].startswith("rebuilding: 0 of 0 records; last error: the disk is away")
            answer = (await served.http.post("/match", json={"hashes": PROMPT})).json()
            assert (answer["matches"], answer["ready"]) == ([], False)

            unread.readable = True
            await served.router.ready(10)
            ready = await served.http.get("/readyz")
            assert ready.status_code == 200
            assert ready.json() == {
                "ready": True, "reason": None, "phase": "following", "stale_seconds": 0.0, "lag_records": 0,
                "blocks": 5, "last_error": None,
            }  # fmt: skip
            assert await served.match(hashes=PROMPT) == [(FAST, 0, 3), (SLOW, 0, 2)]
            assert (await served.http.post("/match", json={"hashes": PROMPT})).json()["ready"] is True


async def test_it_answers_from_memory_while_the_log_is_away_and_is_not_ready_beyond_the_bound() -> None:
    async with open_log("memory://") as real:
        faulty = FaultyLog(real)
        async with served_router(*fleet(), log=faulty.log, settings=HttpSettings(max_staleness_s=0.0)) as served:
            assert (await served.http.get("/readyz")).status_code == 200

            faulty.down = True
            await until_stale(served)
            ready = await served.http.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["phase"] == "stale"
            assert "over the bound of 0 s: the server is away" in ready.json()["reason"]
            answer = (await served.http.post("/match", json={"hashes": PROMPT})).json()
            assert answer["matches"][0]["blocks"] == 3
            assert abs(answer["stale_since_ms"] / 1000 - time.time()) < 60
            assert await served.metric("dynlog_router_stale_seconds") > 0

            faulty.down = False
            await append(real, stored(9, PROMPT))
            await served.router.caught_up()
            assert (await served.http.get("/readyz")).status_code == 200
            answer = (await served.http.post("/match", json={"hashes": PROMPT})).json()
            assert answer["matches"][0]["worker_id"] == 9
            assert answer["stale_since_ms"] is None
            assert await served.metric("dynlog_router_stale_seconds") == 0


async def test_within_the_bound_a_stale_router_stays_ready() -> None:
    async with open_log("memory://") as real:
        faulty = FaultyLog(real)
        async with served_router(*fleet(), log=faulty.log, settings=HttpSettings(max_staleness_s=600)) as served:
            faulty.down = True
            await until_stale(served)
            ready = await served.http.get("/readyz")

    assert ready.status_code == 200
    assert ready.json()["last_error"] == "the server is away"


async def test_workers_are_listed_with_the_blocks_of_each_rank(served: Served) -> None:
    await append(served.log, stored(FAST, [5, 6], dp_rank=1))
    await served.router.caught_up()

    answer = await served.http.get("/workers")

    assert answer.json()["workers"] == [
        {"worker_id": FAST, "worker_id_str": "7", "dp_rank": 0, "blocks": 3},
        {"worker_id": FAST, "worker_id_str": "7", "dp_rank": 1, "blocks": 2},
        {"worker_id": BIG, "worker_id_str": str(BIG), "dp_rank": 0, "blocks": 2},
    ]


async def test_the_dump_is_the_state_in_dynamos_form(served: Served) -> None:
    whole = (await served.http.get("/dump")).text
    lines = (await served.http.get("/dump", params={"format": "jsonl"})).text

    assert json.loads(whole) == [json.loads(line) for line in lines.splitlines()] == list(served.router.dump())
    assert load_events(json.loads(whole)).find_matches(PROMPT) == {(FAST, 0): 3, (SLOW, 0): 2}


async def test_the_dump_of_nothing_is_an_empty_list() -> None:
    async with served_router() as served:
        assert (await served.http.get("/dump")).json() == []
        assert (await served.http.get("/dump", params={"format": "jsonl"})).text == ""


async def test_a_dump_is_of_one_moment_whatever_is_stored_and_removed_while_it_is_read() -> None:
    chains = {worker: list(range(worker * 10_000, worker * 10_000 + 5_000)) for worker in range(1, 41)}
    async with served_router(*(stored(worker, chain) for worker, chain in chains.items())) as served:
        before = json.dumps(list(served.router.dump()))
        async with served.http.stream("GET", "/dump") as answer:
            pieces = aiter(answer.aiter_bytes(4096))
            body = await anext(pieces)
            await append(served.log, KvEvent(40, Kind.WORKER_REMOVED), stored(1, [1, 2, 3]), stored(41, PROMPT))
            await served.router.caught_up()
            second = await served.http.get("/dump")
            body += b"".join([piece async for piece in pieces])

        assert json.dumps(json.loads(body)) == before
        assert second.status_code == 503
        assert "another dump is under way" in second.json()["error"]
        after = (await served.http.get("/dump")).json()
        assert json.dumps(after) == json.dumps(list(served.router.dump())) != before


async def test_metrics_count_what_the_fold_met(served: Served) -> None:
    assert await served.metric("dynlog_router_blocks") == 5
    assert await served.metric("dynlog_router_workers") == 2
    assert await served.metric("dynlog_router_ready") == 1
    assert await served.metric("dynlog_router_rebuilds_total") == 1
    assert await served.metric('dynlog_router_block_ops_total{outcome="stored"}') == 5
    before = await served.metric("dynlog_router_events_total")

    await append(
        served.log,
        stored(FAST, [50], parent=999)._replace(event_id=1),  # nobody knows the parent
        stored(FAST, [60])._replace(event_id=9),  # a gap
        stored(FAST, [60])._replace(event_id=9),  # a repeat
        KvEvent(SLOW, Kind.CLEARED, event_id=1),
        KvEvent(BIG - 1, Kind.WORKER_REMOVED),
    )
    await served.log.append(TOPIC, 0, [Record((b"no event",), key=b"12345678")])
    await served.router.caught_up()

    assert await served.metric("dynlog_router_events_total") == before + 5
    for name in (
        "unknown_parents",
        "event_id_gaps",
        "event_id_repeats",
        "clears",
        "workers_removed",
        "rejected_records",
    ):
        assert await served.metric(f"dynlog_router_{name}_total") == 1, name
    assert await served.metric('dynlog_router_block_ops_total{outcome="repeated"}') == 1
    assert await served.metric("dynlog_router_blocks") == 4
    assert await served.metric("dynlog_router_lag_records") == 0


async def test_metrics_time_every_match_and_count_every_answer(served: Served) -> None:
    await served.match(hashes=PROMPT)
    await served.http.post("/match", json={"queries": [{"hashes": PROMPT}] * 3})
    await served.http.post("/match", content=b"nonsense")
    await served.http.get("/no/such/page")
    await served.http.request("BREW", "/match")

    assert await served.metric("dynlog_router_match_seconds_count") == 2
    assert await served.metric("dynlog_router_find_seconds_count") == 4
    assert 0 < await served.metric("dynlog_router_match_seconds_sum") < 5
    for method, path, status, count in (
        ("POST", "/match", 200, 2), ("POST", "/match", 400, 1), ("GET", "other", 404, 1), ("other", "/match", 405, 1),
    ):  # fmt: skip
        labels = f'{{method="{method}",path="{path}",status="{status}"}}'
        assert await served.metric(f"dynlog_router_http_requests_total{labels}") == count, labels


async def test_metrics_say_how_old_the_snapshot_is() -> None:
    async with open_objects("memory://") as objects, served_router(*fleet(), objects=objects) as served:
        assert "snapshot_age_seconds" not in (await served.http.get("/metrics")).text
        await served.router.snapshot()

        assert await served.metric("dynlog_router_snapshots_total") == 1
        assert 0 <= await served.metric("dynlog_router_snapshot_age_seconds") < 60


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("GET", "/nothing", 404, "no page /nothing"),
        ("GET", "/%0a%C3%BC", 404, r"no page /\n\xfc"),
        ("GET", "/match", 405, "use POST"),
        ("POST", "/dump", 405, "use GET"),
        ("GET", "/dump?format=xml", 422, "format: Input should be 'json' or 'jsonl'"),
    ],
)
async def test_a_wrong_path_method_or_parameter_is_named(
    served: Served, method: str, path: str, status: int, why: str
) -> None:
    answer = await served.http.request(method, path)

    assert answer.status_code == status
    assert why in answer.json()["error"]


async def test_the_openapi_document_describes_what_is_there_and_its_examples_work(served: Served) -> None:
    document = (await served.http.get("/openapi.json")).json()

    assert set(document["paths"]) == {"/match", "/workers", "/dump", "/healthz", "/readyz", "/metrics"}
    operation = document["paths"]["/match"]["post"]
    assert {"200", "400", "408", "413", "415", "422"} <= set(operation["responses"])
    assert "Problem" in json.dumps(operation["responses"]["422"])
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert examples == MATCH_EXAMPLES
    for example in examples.values():
        assert (await served.http.post("/match", json=example["value"])).status_code == 200


async def test_the_docs_page_needs_nothing_from_elsewhere(served: Served) -> None:
    page = await served.http.get("/docs")

    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "iframe")
            links.extend(value or "" for name, value in attrs if name in ("href", "src"))

    Links().feed(page.text)
    assert page.headers["content-type"].startswith("text/html")
    assert "POST /match" in page.text
    assert all(link.startswith(("/", "#")) for link in links)


async def test_ending_lets_an_answer_under_way_come_to_its_end() -> None:
    chain = list(range(100_000))
    events = [
        stored(1, chain[at : at + 10_000], parent=chain[at - 1] + 1 if at else None) for at in range(0, 100_000, 10_000)
    ]
    async with open_log("memory://") as log:
        async with served_router(*events, log=log) as served:
            reader, writer = await asyncio.open_connection(*served.address)
            writer.write(b"GET /dump HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            rest = asyncio.create_task(reader.read())
        body = await rest
        writer.close()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.endswith(b"0\r\n\r\n")
