"""``dynlog router ingest``: a source, the ingest loop, and a summary that says what became durable."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dynlog.cli.app import PartialSuccess
from dynlog.cli.output import print_facts, print_json, progress
from dynlog.cli.router_app import EventFormat
from dynlog.cli.router_stdin import copy_stdin
from dynlog.data import sample_trace
from dynlog.errors import ConfigurationError, MissingDependency, TopicNotFound
from dynlog.ingest import IngestStats, ingest
from dynlog.ingest_items import Item, Refused
from dynlog.log import Log
from dynlog.open import open_log

logger = logging.getLogger("dynlog.ingest")
SAID_REFUSALS = 5
BLOCK_SIZE_LABEL = "block_size"
FILES = (EventFormat.DYNAMO_JSONL, EventFormat.MOONCAKE)


class IngestOptions(NamedTuple):
    """What the command line says."""

    format: EventFormat
    sources: Sequence[str]
    sources_file: Path | None
    partitions: int | None
    workers: int
    capacity: int
    requests: int | None
    idle_s: float | None
    block_size: int | None
    as_json: bool


async def ingest_events(log_url: str, topic: str, options: IngestOptions, stop: asyncio.Event) -> None:
    """Ingests until the source ends, ``stop`` or silence; prints the summary of what is durable.

    Raises PartialSuccess if a file had events that were refused.
    """
    if options.format is EventFormat.MOONCAKE and not options.sources:
        options = options._replace(sources=[str(sample_trace())])
    _check(options)
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        # The sources' modules first: a missing package is to be said before a log or topic is made.
        source_of = _source_of(options)
        log = await stack.enter_async_context(open_log(log_url))
        await _topic(log, topic, options)
        source = await stack.enter_async_context(source_of(log, topic))
        show = stack.enter_context(progress("ingesting", unit="events"))
        stats = await ingest(
            log,
            topic,
            _say_refusals(source),
            stop=stop,
            idle_s=options.idle_s,
            progress=lambda stats: show(stats.events),
        )
    _summary(topic, stats, time.monotonic() - begun, stopped=stop.is_set(), as_json=options.as_json)
    if stats.rejected and options.format in FILES and not stop.is_set():
        raise PartialSuccess(
            f"{stats.rejected} events were refused and parked with their reasons: dynlog log read {topic}.rejected"
        )


def _check(options: IngestOptions) -> None:
    if options.sources_file is not None and options.format is not EventFormat.VLLM_ZMQ:
        raise ConfigurationError(f"--sources goes with --format vllm-zmq, not with {options.format.value}")
    if not options.sources and options.sources_file is None:
        raise ConfigurationError("nothing to ingest: name a SOURCE" + (
            " or --sources FILE.yaml" if options.format is EventFormat.VLLM_ZMQ else ""
        ))  # fmt: skip
    if options.format is EventFormat.MOONCAKE and len(options.sources) != 1:
        raise ConfigurationError("a fleet serves one trace: name one SOURCE with --format mooncake")
    if options.format in FILES:
        for source in options.sources:
            if source != "-" and not Path(source).exists():
                raise ConfigurationError(f"{source}: there is no such file")


async def _topic(log: Log, topic: str, options: IngestOptions) -> None:
    try:
        info = await log.topic(topic)
    except TopicNotFound:
        info = await log.create_topic(topic, partitions=options.partitions or 1, exist_ok=options.partitions is None)
    if options.partitions is not None and info.partitions != options.partitions:
        raise ConfigurationError(
            f"topic {topic!r} has {info.partitions} partitions, which is for ever; leave out --partitions"
        )
    if options.block_size is not None:
        said = await log.label_topic(topic, BLOCK_SIZE_LABEL, str(options.block_size))
        if said != str(options.block_size):
            raise ConfigurationError(f"topic {topic!r} has blocks of {said} tokens, not {options.block_size}")


def _source_of(options: IngestOptions) -> Any:
    """A function from (log, topic) to a context manager that gives the items."""
    try:
        match options.format:
            case EventFormat.DYNAMO_JSONL:
                return _dynamo_lines(options)
            case EventFormat.MOONCAKE:
                return _mooncake(options)
            case EventFormat.VLLM_ZMQ:
                return _vllm(options)
            case EventFormat.DYNAMO_ZMQ:
                return _dynamo_zmq(options)
            case EventFormat.DYNAMO_NATS:
                return _dynamo_nats(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dynlog"):
            raise
        extra = "nats" if options.format is EventFormat.DYNAMO_NATS else "zmq"
        raise MissingDependency(
            f"--format {options.format.value} needs the package {error.name!r}: pip install 'dynlog[{extra}]'"
        ) from None


def _dynamo_lines(options: IngestOptions) -> Any:
    from dynlog.adapters.dynamo_json import decode_line
    from dynlog.ingest_lines import line_items

    @asynccontextmanager
    async def source(log: Log, topic: str) -> AsyncIterator[AsyncGenerator[Item, None]]:
        async def items() -> AsyncGenerator[Item, None]:
            for path in options.sources:
                async with aclosing(line_items(path, decode_line)) as lines:
                    async for item in lines:
                        yield item

        yield items()

    return source


def _mooncake(options: IngestOptions) -> Any:
    from dynlog.adapters.mooncake_items import mooncake_items

    @asynccontextmanager
    async def source(log: Log, topic: str) -> AsyncIterator[AsyncGenerator[Item, None]]:
        shape = {"workers": options.workers, "capacity": options.capacity, "requests": options.requests}
        if options.sources[0] != "-":
            yield mooncake_items(Path(options.sources[0]), **shape)  # type: ignore[arg-type]
            return
        with tempfile.NamedTemporaryFile(prefix="dynlog-trace-") as file:  # its digest is needed before its first line
            await copy_stdin(file)
            yield mooncake_items(Path(file.name), **shape)  # type: ignore[arg-type]

    return source


def _vllm(options: IngestOptions) -> Any:
    from dynlog.adapters.source_set import VllmSources
    from dynlog.adapters.sources import parse_source

    sources = [parse_source(text) for text in options.sources]

    @asynccontextmanager
    async def source(log: Log, topic: str) -> AsyncIterator[AsyncGenerator[Item, None]]:
        async with VllmSources(log, topic, sources, sources_file=options.sources_file) as engines:
            yield engines.items()

    return source


def _dynamo_zmq(options: IngestOptions) -> Any:
    from dynlog.adapters.dynamo_zmq import dynamo_items
    from dynlog.adapters.sources import parse_source

    sources = [parse_source(text) for text in options.sources]

    @asynccontextmanager
    async def source(log: Log, topic: str) -> AsyncIterator[AsyncGenerator[Item, None]]:
        yield dynamo_items(sources)

    return source


def _dynamo_nats(options: IngestOptions) -> Any:
    from dynlog.adapters.dynamo_nats import nats_items
    from dynlog.adapters.dynamo_nats_source import parse_nats_source

    sources = [parse_nats_source(text) for text in options.sources]

    @asynccontextmanager
    async def source(log: Log, topic: str) -> AsyncIterator[AsyncGenerator[Item, None]]:
        yield nats_items(sources)

    return source


async def _say_refusals(source: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """Names the first refusals on stderr; all of them are parked."""
    said = 0
    async with aclosing(source):
        async for item in source:
            if isinstance(item, Refused):
                said += 1
                if said <= SAID_REFUSALS:
                    logger.warning("refused %s, %s: %s", item.source, item.place, item.reason)
                elif said == SAID_REFUSALS + 1:
                    logger.warning("more refusals are parked and not named here")
            yield item


def _summary(topic: str, stats: IngestStats, seconds: float, *, stopped: bool, as_json: bool) -> None:
    facts: dict[str, Any] = stats.as_dict() | {
        "seconds": round(seconds, 3),
        "events_per_second": round(stats.events / seconds) if seconds else 0,
        "topic": topic,
        "stopped": stopped,
    }
    if as_json:
        print_json(facts)
        return
    print_facts(
        {
            "events": f"{stats.events:,} with {stats.blocks:,} blocks, in {stats.records:,} records",
            "already there": f"{stats.repeats:,} records",
            "rejected": f"{stats.rejected:,}",
            "gaps": f"{facts['gaps']:,} with {stats.missing:,} batches missing at first",
            "clears": f"{facts['clears']:,}",
            "duplicates": f"{facts['duplicates']:,}",
            "time": f"{seconds:.2f} s, {facts['events_per_second']:,} events/s",
        }
        | ({"unreached": _sources(len(stats.unreached))} if stats.unreached else {})
        | ({"stopped": "by a signal; all of the above is durable"} if stopped else {})
    )


def _sources(count: int) -> str:
    return f"{count} source{'' if count == 1 else 's'} had no connection at the end"
