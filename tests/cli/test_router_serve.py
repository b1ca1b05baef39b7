"""``dynlog router serve`` and ``ingest`` as processes: they follow, stop on SIGTERM with status 0, or say why not."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from dynlog import open_log
from dynlog.kvevents import Kind, KvEvent, pack_hashes
from tests.adapters.fake_engine import FakeEngine, stored
from tests.adapters.harness import free_ports
from tests.cli.process import PATIENCE_S, Dynlog, dynlog
from tests.cli.router_fleet import SAMPLE, dumped, expected_events, folded, jsonl, mooncake

PROMPT = [2**63, 2**63 + 1, 2**63 + 2]
EVENT = KvEvent(2**64 - 1, Kind.STORED, pack_hashes([1, 2]), pack_hashes(PROMPT[:2]))


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite://{tmp_path}/events.db"
    monkeypatch.setenv("DYNLOG_LOG", url)
    monkeypatch.setenv("DYNLOG_TOPIC", "kv")
    return url


@asynccontextmanager
async def serving(*more: str) -> AsyncIterator[tuple[Dynlog, httpx.AsyncClient]]:
    async with Dynlog.start("router", "serve", "--listen", "127.0.0.1:0", "--json", *more) as server:
        listening = json.loads(await server.line())["listening"]
        async with httpx.AsyncClient(base_url=listening, timeout=PATIENCE_S) as http:
            yield server, http


async def until(http: httpx.AsyncClient, path: str, wanted: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Asks until the answer is as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(answer := await http.get(path)):  # noqa: ASYNC110 (another process can only be asked)
            await asyncio.sleep(0.02)
        return answer


async def until_ready(http: httpx.AsyncClient, status: int = 200) -> httpx.Response:
    """Asks until /readyz has that status."""
    return await until(http, "/readyz", lambda answer: answer.status_code == status)


async def held(http: httpx.AsyncClient) -> dict[int, int]:
    """Blocks of PROMPT by worker."""
    answer = (await http.post("/match", json={"hashes": PROMPT})).json()
    return {match["worker_id"]: match["blocks"] for match in answer["matches"]}


async def test_a_server_follows_what_others_ingest_and_stops_in_order(url: str) -> None:
    assert (await dynlog("log", "create", "kv")).status == 0
    async with serving() as (server, http):
        ready = await until_ready(http)
        assert ready.json()["blocks"] == 0

        done = await dynlog("router", "ingest", "--format", "dynamo-jsonl", "-", stdin=jsonl([EVENT]).decode())
        assert done.status == 0, done.err
        await until(http, "/workers", lambda answer: bool(answer.json()["workers"]))
        assert await held(http) == {2**64 - 1: 2}
        assert (await dynlog("router", "remove-worker", str(2**64 - 1))).status == 0
        await until(http, "/workers", lambda answer: not answer.json()["workers"])

        server.signal(signal.SIGTERM)
        outcome = await server.ended()

    assert outcome.status == 0, outcome.err
    assert "error" not in outcome.err


async def test_a_served_router_snapshots_by_itself_and_its_successor_begins_there(url: str, tmp_path: Path) -> None:
    objects = ["--objects", f"file://{tmp_path}/objects"]
    assert (await dynlog(*mooncake(requests=100))).status == 0
    async with serving(*objects, "--snapshot-records", "20") as (server, http):
        await until_ready(http)
        assert (await dynlog(*mooncake())).status == 0
        await until(http, "/metrics", lambda answer: "dynlog_router_snapshots_total 0.0" not in answer.text)
        blocks = folded(expected_events()).blocks_held
        await until(http, "/metrics", lambda answer: f"dynlog_router_blocks {blocks}.0" in answer.text)
        dump = (await http.get("/dump")).json()
        server.signal(signal.SIGTERM)
        assert (await server.ended()).status == 0

    rebuilt = await dynlog("router", "rebuild", "--json", *objects)
    assert json.loads(rebuilt.out)["started_from"].startswith("snapshot ")
    assert dump == dumped(folded(expected_events()))


async def test_what_a_start_had_to_replay_counts_towards_the_next_snapshot(url: str, tmp_path: Path) -> None:
    objects = ["--objects", f"file://{tmp_path}/objects"]
    assert (await dynlog(*mooncake(requests=100))).status == 0
    async with serving(*objects, "--snapshot-records", "20") as (_, http):
        await until(http, "/metrics", lambda answer: "dynlog_router_snapshots_total 1.0" in answer.text)


async def test_a_router_whose_topic_is_deleted_goes_on_answering_and_turns_unready(url: str, tmp_path: Path) -> None:
    done = await dynlog("router", "ingest", "--format", "dynamo-jsonl", "-", stdin=jsonl([EVENT]).decode())
    assert done.status == 0
    async with serving("--max-staleness", "0s", "--log-format", "json") as (server, http):
        await until_ready(http)
        async with open_log(url) as log:
            await log.delete_topic("kv")

        unready = await until_ready(http, 503)
        assert "kv" in unready.json()["reason"]
        assert await held(http) == {2**64 - 1: 2}
        assert (await http.get("/healthz")).status_code == 200

        server.signal(signal.SIGTERM)
        outcome = await server.ended()

    assert outcome.status == 0, outcome.err
    diagnostics = [json.loads(line) for line in outcome.err.splitlines()]
    assert any("stale" in line["message"] for line in diagnostics)


async def test_a_state_that_cannot_be_rebuilt_ends_the_server_with_one_line(url: str) -> None:
    assert (await dynlog(*mooncake(requests=50))).status == 0
    async with open_log(url) as log:
        await log.truncate("kv", 0, 10, force=True)

    async with serving() as (server, _):
        outcome = await server.ended()

    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith(
        "dynlog: error: topic 'kv' cannot be rebuilt: partition 0 begins at 10"
    )


async def test_sigterm_during_a_request_that_never_ends_ends_the_server_in_time(url: str) -> None:
    assert (await dynlog("log", "create", "kv")).status == 0
    async with serving() as (server, http):
        _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        try:
            writer.write(b"POST /match HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
            assert (await http.get("/healthz")).status_code == 200
            loop = asyncio.get_running_loop()
            begun = loop.time()
            server.signal(signal.SIGTERM)
            outcome = await server.ended()
            assert loop.time() - begun < 20
        finally:
            writer.close()
    assert outcome.status == 0, outcome.err


async def test_sigterm_makes_an_ingest_acknowledge_what_it_took_and_exit_0(url: str) -> None:
    async with Dynlog.start("router", "ingest", "--format", "dynamo-jsonl", "-", "--json") as ingest:
        await ingest.say(jsonl([EVENT]).decode())
        async with open_log(url) as log:
            await log.create_topic("kv", exist_ok=True)  # whoever comes first makes it
            batch = await log.read(await log.position("kv", 0), wait=PATIENCE_S)
            assert len(batch) == 1
        ingest.signal(signal.SIGTERM)
        status = await ingest.ended_with_stdin_open()
        outcome = await ingest.ended()

    assert status == 0, outcome.err
    summary = json.loads(outcome.out)
    assert (summary["events"], summary["stopped"]) == (1, True)


async def test_engines_are_ingested_over_zmq_until_nothing_comes_any_more(url: str) -> None:
    port, replay = free_ports()
    source = f"tcp://127.0.0.1:{port}?replay=tcp://127.0.0.1:{replay}&worker_id=7"
    async with (
        FakeEngine(port, replay) as engine,
        Dynlog.start("router", "ingest", "--format", "vllm-zmq", source, "--idle", "2s", "--json") as ingest,
    ):
        await engine.subscribed()
        engine.publish(stored(1, 2, 3))
        outcome = await ingest.ended()

    assert outcome.status == 0, outcome.err
    summary = json.loads(outcome.out)
    assert (summary["events"], summary["blocks"], summary["rejected"]) == (1, 3, 0)
    rebuilt = json.loads((await dynlog("router", "rebuild", "--json")).out)
    assert rebuilt["blocks_held"] == 3
    assert json.loads((await dynlog("router", "status", "--json")).out)["block_size"] == 4


async def test_the_server_listens_before_it_is_ready_so_that_probes_are_answered(url: str) -> None:
    assert (await dynlog("router", "ingest", "--format", "mooncake", str(SAMPLE), "--workers", "2")).status == 0
    async with serving() as (_, http):
        assert (await http.get("/healthz")).status_code == 200
        early = await http.get("/readyz")
        assert early.status_code in (200, 503)
        await until_ready(http)
        with socket.create_connection((http.base_url.host, http.base_url.port or 0)):
            pass


@pytest.mark.parametrize("form", ["dynamo-jsonl", "mooncake"])
async def test_an_ingest_of_nothing_ends(url: str, form: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynlog.cli", "router", "ingest", "--format", form, "-", "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0
    assert json.loads(out)["events"] == 0
