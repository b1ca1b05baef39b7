"""What ``dynlog mirror nats`` runs: a mirror, and beside it somebody who says how far it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.adapters.nats.streams import stream_info
from dynlog.cli.app import PartialSuccess
from dynlog.cli.log_open import open_existing
from dynlog.cli.output import LineOutput, human_seconds, print_facts, print_json, say
from dynlog.cli.run import until_stopped
from dynlog.errors import ConfigurationError
from dynlog.migrations.mirror.book import TOPIC, Page, open_book
from dynlog.migrations.mirror.choice import Choice, is_taken, recorded_choice
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.cutover import cut_over
from dynlog.migrations.mirror.inward import StreamMirror, mirror_in
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.mirror.running import mirror_out, mirror_stream, mirror_subject
from dynlog.open import open_log

Access = tuple[str, Path | None, Path | None, Path | None, Path | None]
OPEN_S = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says."""

    access: Access
    log: str
    topic: str
    stream: str | None
    subjects: tuple[str, ...]
    partitions: int | None
    partition_by: str | None
    begin: Literal["earliest", "end"]
    once: bool
    reopen: bool
    every_s: float
    patience_s: float
    as_json: bool

    def check(self, direction: str) -> None:
        """Raises ConfigurationError for options that do not go together."""
        if direction == "out":
            if not self.subjects:
                raise ConfigurationError("outwards a mirror writes only to subjects that are given: --subject NAME")
            if self.stream or self.partitions or self.partition_by or self.reopen:
                raise ConfigurationError("--stream, --partitions, --partition-by and --reopen go with --direction in")
            return
        if self.stream is None and not self.subjects:
            raise ConfigurationError("inwards a mirror reads --stream NAME, or a core subject: --subject NAME")
        if len(self.subjects) > 1:
            raise ConfigurationError("inwards a mirror reads one subject or pattern: start one mirror for each")
        if self.stream is None and (self.once or self.reopen):
            raise ConfigurationError("--once and --reopen go with --stream: a core subject has no end and no past")


def access_of(given: Access) -> NatsAccess:
    """Where the server is and as whom to come."""
    url, creds, ca, cert, key = given
    return NatsAccess(url, creds=creds, ca=ca, cert=cert, key=key)


async def mirror(direction: str, wanted: Wanted, stop: asyncio.Event) -> None:
    """Mirrors until ``stop``, the end (``--once``) or a cut-over; then says what was done.

    Raises PartialSuccess if something could not be mirrored.
    """
    access = access_of(wanted.access)
    standing: list[Standing] = []

    def told(now: Standing) -> None:
        standing[:] = [now]

    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_existing(wanted.log) if direction == "out" else open_log(wanted.log))
        server = await stack.enter_async_context(open_nats(access, timeout=OPEN_S))
        work: Coroutine[Any, Any, Page | None]
        if direction == "out":
            work = mirror_out(
                server, access, log, wanted.topic, wanted.subjects, told, begin=wanted.begin, once=wanted.once,
                patience_s=wanted.patience_s,
            )  # fmt: skip
        elif wanted.stream is None:
            work = mirror_subject(
                server, log, wanted.subjects[0], wanted.topic, told, partitions=wanted.partitions,
                partition_by=wanted.partition_by, patience_s=wanted.patience_s,
            )  # fmt: skip
        else:
            choice = Choice(wanted.subjects[0] if wanted.subjects else None, wanted.partition_by)
            work = mirror_stream(
                server, log, wanted.stream, wanted.topic, told, choice=choice, partitions=wanted.partitions,
                reopened=wanted.reopen, once=wanted.once, patience_s=wanted.patience_s,
            )  # fmt: skip
        ended = await _with_reports(work, standing, wanted, stop)
    if ended is not None:
        say(f"cut over at sequence {max(ended.sequences.values(), default=0)}: the mirror has ended")
    counts = standing[0].counts if standing else None
    if counts is not None and counts.left_out + counts.missed:
        raise PartialSuccess(
            f"{counts.left_out} could not be mirrored and {counts.missed} were gone before they could: "
            f"dynlog log read {TOPIC}"
        )


async def _with_reports(
    work: Coroutine[Any, Any, Page | None], standing: list[Standing], wanted: Wanted, stop: asyncio.Event
) -> Page | None:
    output = LineOutput()

    async def report() -> None:
        while True:
            await asyncio.sleep(wanted.every_s)
            if standing:
                await output.write(_line(standing[0], as_json=wanted.as_json))

    async def both() -> Page | None:
        reports = asyncio.ensure_future(report())
        gone = asyncio.ensure_future(output.reader_gone())
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((reports, gone, working), return_when=asyncio.FIRST_COMPLETED)
            for task in (working, reports, gone):
                if task.done():
                    result = task.result()
                    return result if isinstance(result, Page) else None
            return None
        finally:
            for task in (reports, gone, working):
                task.cancel()
            await asyncio.gather(reports, gone, working, return_exceptions=True)

    result = await until_stopped(both(), stop)
    if standing:
        await output.write(_line(standing[0], as_json=wanted.as_json))
    return result[0] if result is not None else None


def _line(standing: Standing, *, as_json: bool) -> bytes:
    facts = standing.as_dict()
    if as_json:
        return json.dumps(facts, ensure_ascii=False).encode() + b"\n"
    counted = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in standing.counts.as_dict().items())
    late = f" ({human_seconds(round(standing.seconds_behind, 1))})" if standing.behind else ""
    outage = f"; waiting: {standing.outage}" if standing.outage else ""
    arrow = f"{standing.source} -> {standing.target}"
    return f"{arrow}: at {_position(standing)}, {standing.behind:,} behind{late}; {counted}{outage}\n".encode()


def _position(standing: Standing) -> str:
    if isinstance(standing.position, dict):
        return " ".join(f"{partition}/{offset}" for partition, offset in sorted(standing.position.items()))
    return "-" if standing.position is None else str(standing.position)


async def cut_over_stream(
    given: Access, log_url: str, stream: str, topic: str, watch_s: float, *, as_json: bool
) -> None:
    """Cuts over and prints where."""
    async with open_existing(log_url) as log, open_nats(access_of(given), timeout=OPEN_S) as server:
        book = await open_book(log)
        info, target = await stream_info(server, stream), await log.topic(topic)
        pages, _ = await book.read()
        page = pages.cut_over.get(mirror_in(info, target))
        if page is None:
            if not is_taken(target, stream_place(info)):
                raise ConfigurationError(
                    f"topic {topic!r} takes nothing of stream {stream!r}, as it is now: nothing was copied or ended; "
                    "name the topic that it is mirrored into, or mirror it first"
                )
            choice = recorded_choice(target, stream_place(info)) or Choice()
            mirror = StreamMirror(server, log, book, info, target, choice)
            await mirror.open(pages)
            page = await cut_over(server, book, mirror, watch_s, lambda standing: None)
    facts = {
        "stream": stream, "topic": topic, "sequence": max(page.sequences.values(), default=0),
        "offsets": page.offsets, "time_ms": page.time_ms,
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        offsets = " ".join(f"{partition}/{offset}" for partition, offset in sorted(page.offsets.items()))
        print_facts({**facts, "offsets": offsets, "recorded in": TOPIC})
