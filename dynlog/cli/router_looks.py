"""What the short ``dynlog router`` commands do: rebuild, dump, snapshot, remove-worker, status."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from dynlog.cli.log_open import open_existing
from dynlog.cli.output import LineOutput, human_bytes, human_time, print_facts, print_json, print_table
from dynlog.cli.router_state import counted, rebuilt_router
from dynlog.errors import TopicNotFound
from dynlog.kvevents import Kind, KvEvent, encode_events
from dynlog.log import Log
from dynlog.manifests import SUFFIX, ManifestFold
from dynlog.producer import Producer
from dynlog.replay import DEDUPE_SECTION, STATE_SECTION
from dynlog.router.dump_text import dump_text
from dynlog.router.state import PROJECTION
from dynlog.topics import HolderState

REJECTED_SUFFIX = ".rejected"


async def show_rebuild(log_url: str, topic: str, objects_url: str | None, as_json: bool) -> None:
    """``rebuild``."""
    async with rebuilt_router(log_url, topic, objects_url) as opened:
        state, report = opened.rebuilt.state, opened.rebuilt.report
        total = counted(state.index.counters)
        events, ops = total.events - state.noted.events, total.block_ops - state.noted.block_ops
        facts: dict[str, Any] = {
            "events": events,
            "block_ops": ops,
            "blocks_held": state.index.blocks_held,
            "workers": len({worker for worker, _ in state.index.workers()}),
            "seconds": round(report.seconds, 6),
            "block_ops_per_second": round(ops / report.seconds) if report.seconds else 0,
            "started_from": report.started_from,
            "records": report.records,
            "total_events": total.events,
            "total_block_ops": total.block_ops,
            "snapshots_rejected": list(report.snapshots_rejected),
            "counters": asdict(state.index.counters),
        }
    if as_json:
        print_json(facts)
        return
    shown = {
        "started from": facts["started_from"],
        "events": f"{events:,}",
        "block operations": f"{ops:,}",
        "blocks held": f"{facts['blocks_held']:,} on {facts['workers']:,} workers",
        "time": f"{report.seconds:.3f} s",
        "rate": f"{facts['block_ops_per_second']:,} block operations/s",
    }
    odd = {
        name.replace("_", " "): f"{facts['counters'][name]:,}"
        for name in ("rejected_records", "event_id_gaps", "event_id_repeats", "unknown_parents", "malformed")
        if facts["counters"][name]
    }
    passed_over = {f"passed over {number}": why for number, why in enumerate(report.snapshots_rejected, 1)}
    print_facts(shown | odd | passed_over)


async def print_dump(log_url: str, topic: str, objects_url: str | None, lines: bool) -> None:
    """``dump``."""
    async with rebuilt_router(log_url, topic, objects_url) as opened:
        index = opened.rebuilt.state.index
    output = LineOutput()
    for piece in dump_text(index, lines=lines):
        await output.write(piece)


async def write_snapshot(log_url: str, topic: str, objects_url: str, as_json: bool) -> None:
    """``snapshot``."""
    async with rebuilt_router(log_url, topic, objects_url) as opened:
        rebuilt, snapshots = opened.rebuilt, opened.snapshots
        assert snapshots is not None
        sections = {STATE_SECTION: rebuilt.state.snapshot()}
        if rebuilt.dedupe is not None:
            sections[DEDUPE_SECTION] = rebuilt.dedupe.snapshot()
        manifest = await snapshots.write(sections, rebuilt.state.schema, dict(rebuilt.reader.positions))
        await snapshots.gc()
    facts = manifest.model_dump(mode="json")
    if as_json:
        print_json(facts)
        return
    covers = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(manifest.positions.items()))
    print_facts(
        facts | {"size": human_bytes(manifest.size), "positions": covers, "created_ms": human_time(manifest.created_ms)}
    )


async def say_removed(log_url: str, topic: str, worker: int, as_json: bool) -> None:
    """``remove-worker``."""
    async with open_existing(log_url) as log, Producer(log, topic) as producer:
        stored = await producer.send(encode_events([KvEvent(worker, Kind.WORKER_REMOVED)]))
    if as_json:
        print_json(
            {"worker_id": worker, "worker_id_str": str(worker), "partition": stored.partition, "offset": stored.offset}
        )
        return
    print(f"worker {worker} is gone from partition {stored.partition}, offset {stored.offset} on")


async def show_status(log_url: str, topic: str, as_json: bool) -> None:
    """``status``."""
    async with open_existing(log_url) as log:
        info = await log.topic(topic)
        partitions = await log.partitions(topic)
        holders = await log.holders(topic)
        manifests = (await _manifests(log, topic)).of(PROJECTION, info.incarnation)[::-1]
        rejected = await _count(log, topic + REJECTED_SUFFIX)
    snapshots: list[dict[str, Any]] = [
        {
            "id": state.manifest.id,
            "verified": state.verified,
            "age_seconds": round(max(time.time() - state.manifest.created_ms / 1000, 0.0), 1),
            "size": state.manifest.size,
            "records_behind": sum(max(p.end - state.manifest.positions.get(p.partition, 0), 0) for p in partitions),
            "writer": state.manifest.writer,
        }
        for state in manifests
    ]
    facts: dict[str, Any] = {
        "topic": topic,
        "incarnation": info.incarnation,
        "partitions": info.partitions,
        "block_size": int(size) if (size := info.labels.get("block_size", "")).isdecimal() else None,
        "records": sum(p.end - p.earliest for p in partitions),
        "bytes": sum(p.bytes for p in partitions),
        "starts_at_zero": all(p.earliest == 0 for p in partitions),
        "rejected": rejected,
        "snapshots": snapshots,
        "holders": [_holder(state) for state in holders],
    }
    if as_json:
        print_json(facts)
        return
    print_facts(
        {
            "topic": f"{topic}, partitions: {info.partitions}",
            "records": f"{facts['records']:,}, {human_bytes(facts['bytes'])}",
            "block size": f"{facts['block_size']} tokens" if facts["block_size"] else "not said",
            "oldest records": "there" if facts["starts_at_zero"] else "truncated: a rebuild needs a snapshot",
            "rejected": f"{rejected:,}" + (f": dynlog log read {topic}{REJECTED_SUFFIX}" if rejected else ""),
        }
    )
    print()
    print_table(
        ("snapshot", "verified", "age s", "size", "records behind"),
        [
            (s["id"], "yes" if s["verified"] else "no", s["age_seconds"], human_bytes(s["size"]), s["records_behind"])
            for s in snapshots
        ],
        empty="no snapshots",
    )
    print()
    print_table(
        ("holder", "kind", "lag when seen", "seen s ago"),
        [(h["name"], h["kind"], h["lag_records"], h["seen_seconds_ago"]) for h in facts["holders"]],
        empty="nobody follows",
    )


def _holder(state: HolderState) -> dict[str, Any]:
    return {
        "name": state.holder.name,
        "kind": state.holder.kind.value,
        "lag_records": state.lag_records,
        "seen_seconds_ago": round(max(time.time() - state.last_seen_ms / 1000, 0.0), 1),
        "expired": state.expired,
    }


async def _manifests(log: Log, topic: str) -> ManifestFold:
    fold = ManifestFold()
    try:
        position = await log.position(topic + SUFFIX, 0)
    except TopicNotFound:
        return fold
    while True:
        batch = await log.read(position)
        fold.apply(batch)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            return fold


async def _count(log: Log, topic: str) -> int:
    try:
        return sum(state.end - state.earliest for state in await log.partitions(topic))
    except TopicNotFound:
        return 0
