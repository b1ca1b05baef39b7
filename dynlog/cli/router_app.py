"""``dynlog router``: a KV router whose state is a fold over a log of cache events.  The commands; their work is done in
the ``router_*`` modules beside this one, imported when called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, ObjectsUrl, parse_duration, parse_size

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
U64_MAX = 2**64 - 1


class EventFormat(StrEnum):
    """What `ingest` reads."""

    DYNAMO_JSONL = "dynamo-jsonl"
    MOONCAKE = "mooncake"
    VLLM_ZMQ = "vllm-zmq"
    DYNAMO_ZMQ = "dynamo-zmq"
    DYNAMO_NATS = "dynamo-nats"


class TierName(StrEnum):
    """A memory in which blocks lie."""

    DEVICE = "device"
    HOST_PINNED = "host_pinned"
    DISK = "disk"
    EXTERNAL = "external"


def _worker_id(text: str) -> int:
    try:
        value = int(text, 16) if text.lower().startswith("0x") else int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= U64_MAX:
        raise typer.BadParameter(f"{text!r} is no worker id: a number from 0 to 2^64-1 is needed, decimal or 0x hex")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = parse_duration(text)
    if not 0 <= value < 1e9:
        raise typer.BadParameter(f"{text!r} is no duration: seconds, or a number with ms, s, m, h, d or w, as in 90s")
    return value


def _some_seconds(text: str) -> float:
    value = _seconds(text)
    if value < 0.1:
        raise typer.BadParameter(f"{text!r}: at least 100ms is needed")
    return value


TopicName = Annotated[str, typer.Option("--topic", envvar="DYNLOG_TOPIC", help="The topic.", show_default=False)]
BlockSize = Annotated[int | None, typer.Option("--block-size", min=1, help="Tokens per block.", show_default=False)]


@app.callback()
def router() -> None:
    """A KV router whose state is rebuilt from a log.

    `ingest` writes a fleet's cache events into a topic, `serve` answers frontends over HTTP from what it says, and
    `rebuild`, `dump`, `match` and `status` look at it without a server.

        URL=sqlite:///tmp/fleet.db
        dynlog router ingest --format mooncake trace.jsonl.gz --log $URL --topic kv --workers 8 --capacity 2000
        dynlog router rebuild --log $URL --topic kv
        dynlog router serve --log $URL --topic kv --objects file:///tmp/snapshots --listen 127.0.0.1:8080
    """


@app.command()
def ingest(
    log: LogUrl,
    topic: TopicName,
    format: Annotated[EventFormat, typer.Option("--format", help="What the sources hold.", show_default=False)],
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files, or addresses; mooncake without one plays the shipped sample."),
    ] = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Of the topic, if it is made now (1).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="mooncake: engines in the fleet.")] = 8,
    capacity: Annotated[int, typer.Option(min=1, help="mooncake: blocks that an engine holds.")] = 2000,
    requests: Annotated[int | None, typer.Option(min=1, help="mooncake: only so many of the first requests.")] = None,
    sources: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="vllm-zmq: a list of sources, re-read when it changes.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(parser=_some_seconds, metavar="SECONDS", help="End once nothing came for so long.")
    ] = None,
    block_size: BlockSize = None,
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Write a fleet's cache events into a topic, which is made if it is not there, and say what became durable.

    Records carry marks from their source: an ingest that was killed goes on where it stopped, and one that runs twice
    changes nothing. What is malformed is named, counted and parked in `TOPIC.rejected`; from a file, the exit
    status is 3 then. SIGTERM: what was taken is acknowledged, exit 0.

    - `dynamo-jsonl`: files of Dynamo RouterEvents, one a line (`.gz` is unpacked, `-` is stdin)

    - `mooncake`: a request trace, played by a fleet of `--workers` engines of `--capacity` blocks

    - `vllm-zmq`: `tcp://HOST:PORT?replay=tcp://HOST:PORT&worker_id=N` (also `dp_rank=`, `topic=`) for each engine, or
      `--sources FILE.yaml` with a list of them; an entry that goes away says that its worker is gone

    - `dynamo-zmq`: `tcp://HOST:PORT` of Dynamo's event plane (also `topic=`)

    - `dynamo-nats`: `nats://HOST:PORT/NAMESPACE/COMPONENT`: the event plane on NATS, and the stream of releases before
      1.0 (`from=core` or `from=stream` for one of them; also `stream=`, `creds=`, `ca=`, `cert=`, `key=`), read
      without a consumer unless `consumer=` names a durable one

    A live source that is not reached for 10 s is named; `unreached` counts those without a connection at the end.

    `--block-size` says of how many tokens the topic's blocks are, for `match` by tokens; the first to say so wins.
    """
    from dynlog.cli.diagnostics import write_diagnostics
    from dynlog.cli.router_ingest import IngestOptions, ingest_events
    from dynlog.cli.run import serve as run_until_stopped

    write_diagnostics(log_format)
    options = IngestOptions(
        format, source or [], sources, partitions, workers, capacity, requests, idle, block_size, as_json
    )
    run_until_stopped(lambda stop: ingest_events(log, topic, options, stop))


@app.command()
def rebuild(log: LogUrl, topic: TopicName, objects: ObjectsUrl = None, as_json: AsJson = False) -> None:
    """Rebuild the router's state, newest snapshot first, and say how long it took and what it holds.

    `events` and `block_ops` (blocks that events stored, again or anew, or removed) are what this rebuild replayed; the
    `total_` ones include what its snapshot had folded before.
    """
    from dynlog.cli.router_looks import show_rebuild
    from dynlog.cli.run import run

    run(show_rebuild(log, topic, objects, as_json))


@app.command()
def dump(
    log: LogUrl,
    topic: TopicName,
    objects: ObjectsUrl = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One event a line instead of one JSON list.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the state at the log's end as Dynamo RouterEvents, in one canonical order.

    Two routers have the same state exactly if their dumps are the same bytes. `--json` changes nothing: a dump is JSON.
    """
    from dynlog.cli.router_looks import print_dump
    from dynlog.cli.run import run

    run(print_dump(log, topic, objects, jsonl))


@app.command()
def match(
    log: LogUrl,
    topic: TopicName,
    objects: ObjectsUrl = None,
    hashes: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Lines of tokens hashes: JSON arrays of u64, as [1, 2].")
    ] = None,
    tokens: Annotated[str | None, typer.Option(metavar="FILE|-", help="Lines of token ids: JSON arrays.")] = None,
    block_size: BlockSize = None,
    lora: Annotated[str | None, typer.Option(help="The LoRA adapter of the tokens.")] = None,
    tier: Annotated[TierName, typer.Option(help="The memory to look in.")] = TierName.DEVICE,
    early_exit: Annotated[bool, typer.Option("--early-exit", help="Only the longest matches.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many matches per line.")] = None,
    as_json: AsJson = False,
) -> None:
    """For each line of hashes (or tokens), print which workers hold how many blocks of it, the best first.

    The n-th line of output answers the n-th line of input, as JSON:
    `{"blocks": 3, "matches": [{"worker_id": 7, "worker_id_str": "7", "dp_rank": 0, "blocks": 2}]}`. A match is a prefix
    without a gap. A line that does not fit ends it with exit status 1 and is named. `--json` changes nothing.

    - `echo '[6658374154243783716]' | dynlog router match --hashes - --log $URL --topic kv`
    """
    from dynlog.cli.router_query import match_lines
    from dynlog.cli.run import run
    from dynlog.kvevents import Tier

    source = tokens if hashes is None else hashes
    if source is None or (hashes is not None and tokens is not None):
        raise typer.BadParameter("give either --hashes FILE or --tokens FILE; - is stdin")
    if hashes is not None and (block_size is not None or lora is not None):
        raise typer.BadParameter("--block-size and --lora go with --tokens; hashes are matched as they are")
    run(
        match_lines(
            log, topic, objects, source=source, tokens=tokens is not None, block_size=block_size, lora=lora,
            tier=Tier[tier.name], early_exit=early_exit, limit=limit,
        )
    )  # fmt: skip


@app.command()
def snapshot(log: LogUrl, topic: TopicName, objects: ObjectsUrl = None, as_json: AsJson = False) -> None:
    """Rebuild, write a snapshot, verify it, collect old ones, and print the manifest."""
    from dynlog.cli.router_looks import write_snapshot
    from dynlog.cli.run import run

    if objects is None:
        raise typer.BadParameter(
            "a snapshot needs an object store: give --objects, as in file:///var/lib/fleet/objects"
        )
    run(write_snapshot(log, topic, objects, as_json))


@app.command()
def remove_worker(
    worker: Annotated[int, typer.Argument(parser=_worker_id, metavar="ID", help="Decimal, or hex as 0x1f.")],
    log: LogUrl,
    topic: TopicName,
    as_json: AsJson = False,
) -> None:
    """Say in the log that a worker is gone, with all its ranks, so that no rebuild resurrects it.

    It comes back with its next stored event.
    """
    from dynlog.cli.router_looks import say_removed
    from dynlog.cli.run import run

    run(say_removed(log, topic, worker, as_json))


@app.command()
def status(log: LogUrl, topic: TopicName, as_json: AsJson = False) -> None:
    """What there is for a rebuild: records, snapshots, who follows, and what was rejected; nothing is replayed."""
    from dynlog.cli.router_looks import show_status
    from dynlog.cli.run import run

    run(show_status(log, topic, as_json))


@app.command()
def serve(
    log: LogUrl,
    topic: TopicName,
    objects: ObjectsUrl = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:8080",
    max_staleness: Annotated[
        float, typer.Option(parser=_seconds, metavar="SECONDS", help="/readyz is 503 beyond it.")
    ] = "30s",  # type: ignore[assignment]
    max_body: Annotated[int, typer.Option(parser=parse_size, metavar="SIZE", help="Larger requests get 413.")] = "1MiB",  # type: ignore[assignment]
    snapshot_every: Annotated[
        float, typer.Option(parser=_some_seconds, metavar="SECONDS", help="With --objects, if anything came.")
    ] = "5m",  # type: ignore[assignment]
    snapshot_records: Annotated[
        int, typer.Option(min=1, help="With --objects, also after so many records.")
    ] = 1_000_000,
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Follow a topic and answer frontends over HTTP; `GET /docs` describes the service.

    Prints the address once it listens. It answers at once and from memory, is *ready* (`/readyz`) once the replay has
    reached the end that it saw at its start, and goes on answering when the log cannot be read: `/readyz` turns 503
    when that lasts beyond `--max-staleness`. SIGTERM: answers under way are finished, exit 0.

    - `curl -s localhost:8080/match -d '{"hashes": [6658374154243783716], "limit": 3}'`

    - `curl -s localhost:8080/readyz; curl -s localhost:8080/metrics | grep lag`
    """
    from dynlog.cli.diagnostics import write_diagnostics
    from dynlog.cli.router_serve import ServeOptions, serve_router
    from dynlog.cli.run import serve as run_until_stopped

    write_diagnostics(log_format)
    options = ServeOptions(listen, max_staleness, max_body, snapshot_every, snapshot_records, as_json)
    run_until_stopped(lambda stop: serve_router(log, topic, objects, options, stop))
