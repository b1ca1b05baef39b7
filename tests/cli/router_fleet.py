"""A fleet's events for the tests of ``dynlog router``, and what an independent fold makes of them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from dynlog.adapters.dynamo_json import encode_line
from dynlog.adapters.mooncake import fleet_events, read_trace
from dynlog.kvevents import KvEvent
from dynlog.router.dump import dump_events
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex
from tests.cli.conftest import Cli
from tests.cli.process import Outcome

SAMPLE = Path(__file__).resolve().parents[2] / "dynlog" / "data" / "mooncake_sample.jsonl.gz"
WORKERS, CAPACITY, REQUESTS = 4, 150, 200


def mooncake(*more: str, requests: int = REQUESTS) -> list[str]:
    """The command that plays the sample into topic kv."""
    return [
        "router", "ingest", "--format", "mooncake", str(SAMPLE), "--topic", "kv", "--workers", str(WORKERS),
        "--capacity", str(CAPACITY), "--requests", str(requests), *more,
    ]  # fmt: skip


def expected_events(requests: int = REQUESTS) -> list[KvEvent]:
    """What `mooncake` writes."""
    return list(fleet_events(islice(read_trace(SAMPLE), requests), workers=WORKERS, capacity=CAPACITY))


def folded(events: list[KvEvent]) -> KvIndex:
    """The index of the events, without a log."""
    index = KvIndex()
    for event in events:
        apply_event(index, event)
    return index


def dumped(index: KvIndex) -> list[dict[str, Any]]:
    """Its dump."""
    return list(dump_events(index))


def jsonl(events: list[KvEvent]) -> bytes:
    """The events as Dynamo writes them."""
    return b"".join(encode_line(event) + b"\n" for event in events)


def dump_of(cli: Cli, *more: str) -> list[dict[str, Any]]:
    """What ``router dump`` prints."""
    done = cli("router", "dump", "--topic", "kv", *more)
    assert done.status == 0, done.err
    value: list[dict[str, Any]] = json.loads(done.out)
    return value


def ingest_lines(cli: Cli, folder: Path, lines: bytes, *more: str) -> Outcome:
    """Ingests RouterEvents, one a line, from a file."""
    path = folder / "events.jsonl"
    path.write_bytes(lines)
    return cli("router", "ingest", "--format", "dynamo-jsonl", str(path), "--topic", "kv", *more)
