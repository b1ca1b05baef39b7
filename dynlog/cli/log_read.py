"""``dynlog log read``: every record once, in order within its partition, up to the end seen at start or for ever."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from dynlog.batch import Position, StoredRecord
from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.log_merge import Backlog
from dynlog.cli.log_open import open_existing
from dynlog.cli.log_records import json_line, text_line
from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, parse_duration
from dynlog.cli.output import LineOutput
from dynlog.cli.run import run, serve, until_stopped
from dynlog.dedupe import DedupeTable
from dynlog.errors import ConfigurationError, LogUnavailable, PartitionNotFound
from dynlog.log import Log
from dynlog.reader import READ_WAIT_S, Reader
from dynlog.timing import Backoff

LINES_AT_ONCE = 256
OUTAGE_S = 300.0
"""A log that is away for longer ends those who follow it."""
APART_S = 60.0
"""Failures that lie further apart are not of one outage: a read says within half a minute that it cannot."""
logger = logging.getLogger(__name__)


def read(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    log: LogUrl,
    partition: Annotated[int | None, typer.Option(help="Only this partition.")] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="`earliest`, `end`, an offset, a time (2025-07-01T12:00:00Z), or an age (15m).",
        ),
    ] = "earliest",
    limit: Annotated[int | None, typer.Option(min=0, help="End after so many records.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is appended, until stopped.")] = False,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="End at the end seen at start; what happens without `--follow`.")
    ] = False,
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Print records, one a line; end at the end seen at start, or follow.

    Without `--partition` all partitions are merged by log time. An offset that is gone, or beyond the end, is an error
    and never skipped. `--follow` ends on SIGINT or SIGTERM with exit status 0, and rides out a log that is away for
    less than five minutes.

    With `--json` a record is `{"partition", "offset", "log_time", "timestamp", "key", "headers", "control", "mark",
    "parts"}`. Keys, header values and parts are strings where they are printable UTF-8 and `{"base64": "..."}` where
    they are not. Times are UTC and may be given back to `--from`.

    - `dynlog log read orders --log sqlite:///tmp/events.db`

    - `dynlog log read orders --follow --from end --json --log $URL | jq -r '.parts[0]'`

    - `dynlog log read orders --partition 2 --from 1500 --limit 10 --log $URL`

    - `dynlog log read orders --from 15m --log $URL` (the last fifteen minutes)
    """
    if follow and until_end:
        raise ConfigurationError("--follow and --until-end exclude each other")
    write_diagnostics(log_format)
    wanted = _Wanted(topic, partition, parse_start(start), limit, json_line if as_json else text_line)
    if follow:
        serve(lambda stop: until_stopped(_read(log, wanted, follow=True), stop))
    else:
        run(_read(log, wanted, follow=False))


@dataclass(frozen=True, slots=True)
class StartTime:
    """Read from the first record that the log took at or after this time (milliseconds since the epoch)."""

    time_ms: int


Start = int | str | StartTime


def parse_start(text: str) -> Start:
    """``earliest``, ``end``, an offset, a time in ISO 8601 (local without a zone), or an age as in ``15m``."""
    if text in ("earliest", "end"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return StartTime(round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError):
        pass
    try:
        return StartTime(max(round((time.time() - parse_duration(text)) * 1000), 0))
    except typer.BadParameter:
        raise ConfigurationError(
            f"--from {text!r}: earliest, end, an offset, a time like 2025-07-01T12:00:00Z, or an age like 15m"
        ) from None


@dataclass(frozen=True, slots=True)
class _Wanted:
    topic: str
    partition: int | None
    start: Start
    limit: int | None
    form: Callable[[StoredRecord], bytes]


async def _read(url: str, wanted: _Wanted, *, follow: bool) -> None:
    output = LineOutput()
    async with open_existing(url) as log, asyncio.TaskGroup() as group:
        watching = group.create_task(output.reader_gone())
        await _copy(log, wanted, output, follow=follow)
        watching.cancel()


async def _copy(log: Log, wanted: _Wanted, output: LineOutput, *, follow: bool) -> None:
    positions, ends = await _places(log, wanted)
    dedupe = None if log.capabilities.checks_marks else DedupeTable()
    backlog = Backlog(log, positions, ends, dedupe)
    lines: list[bytes] = []
    left = wanted.limit
    async with aclosing(backlog.records()) as records:
        while left is None or left > 0:
            if (stored := await anext(records, None)) is None:
                break
            lines.append(wanted.form(stored))
            left = None if left is None else left - 1
            if len(lines) == LINES_AT_ONCE:
                await output.write(b"".join(lines))
                lines.clear()
    await output.write(b"".join(lines))
    if not follow:
        return
    outage = _Outage()
    async with Reader(log, backlog.positions, dedupe=dedupe) as reader:
        while left is None or left > 0:
            try:
                batch = await reader.next(READ_WAIT_S)
            except LogUnavailable as error:  # the positions stand where they stood
                await outage.ride_out(error)
                continue
            if batch is None:
                continue
            shown = batch if left is None else batch.slice(0, left)
            await output.write(b"".join(map(wanted.form, shown)))
            left = None if left is None else left - len(shown)


class _Outage:
    """How long the log has been away; who follows it sees each outage named once, and the end of a long one."""

    def __init__(self) -> None:
        self._began = self._seen = -math.inf
        self._pauses = iter(Backoff())

    async def ride_out(self, error: LogUnavailable) -> None:
        """Waits a moment; raises the error once the log has been away for `OUTAGE_S`."""
        now = time.monotonic()
        if now - self._seen > APART_S:
            self._began, self._pauses = now, iter(Backoff())
            logger.warning("%s; going on as soon as it can be read", error)
        self._seen = now
        if now - self._began > OUTAGE_S:
            raise error
        await asyncio.sleep(next(self._pauses))


async def _places(log: Log, wanted: _Wanted) -> tuple[dict[int, Position], dict[int, int]]:
    """Where each partition is read from, and the end that it has now."""
    topic = await log.topic(wanted.topic)
    if wanted.partition is not None and not 0 <= wanted.partition < topic.partitions:
        raise PartitionNotFound(
            f"the topic has partitions 0 to {topic.partitions - 1}", topic=topic.name, partition=wanted.partition
        )
    states = await log.partitions(wanted.topic)
    chosen = states if wanted.partition is None else [states[wanted.partition]]
    positions, ends = {}, {}
    for state in chosen:
        match wanted.start:
            case StartTime(time_ms):
                offset = await log.offset_at(topic.name, state.partition, time_ms)
            case int(offset):
                pass
            case where:
                offset = state.earliest if where == "earliest" else state.end
        positions[state.partition] = Position(topic.name, topic.incarnation, state.partition, offset)
        ends[state.partition] = state.end
    return positions, ends
