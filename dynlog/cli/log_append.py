"""``dynlog log append``: the n-th line of output is printed once the n-th line of input is durable, and not before."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.log_lines import LineInput, LineRefused
from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, parse_pairs
from dynlog.cli.output import LineOutput, say
from dynlog.cli.run import serve
from dynlog.delivery import DeliveryPolicy
from dynlog.errors import ConfigurationError, DynlogError
from dynlog.producer import Producer
from dynlog.record import Record
from dynlog.tickets import Ticket

POLICY = DeliveryPolicy(timeout_s=30.0)
"""Long enough for a server that restarts; whoever waits at a terminal is told then."""
MAX_UNPRINTED = 10_000
"""Lines that are taken and whose offsets are not printed yet; then taking waits."""

Tickets = asyncio.Queue[Ticket | None]
"""What was taken, in the order of the lines; None at their end."""


def append(
    topic: Annotated[str, typer.Argument(help="The topic; it must exist.", show_default=False)],
    log: LogUrl,
    partition: Annotated[int | None, typer.Option(help="Append to this partition, whatever the key.")] = None,
    key: Annotated[str | None, typer.Option(help="The key of every record.")] = None,
    key_separator: Annotated[
        str | None, typer.Option(help="A line is KEY SEPARATOR BODY, split at the first separator.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header of every record.")] = None,
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Append lines from stdin; print `partition offset` of each once it is acknowledged.

    The n-th line of output belongs to the n-th line of input. Lines are bytes of any length up to the log's limit; the
    line feed is not stored. Without `--partition` the key decides, and records without a key take turns.

    SIGINT and SIGTERM stop the taking: every line that was taken is acknowledged and printed, then it exits 0. A line
    that cannot be stored ends it with exit status 1 and is named by number; the lines before it are acknowledged.

    - `echo hello | dynlog log append greetings --log sqlite:///tmp/events.db`

    - `dynlog log append orders --key-separator : --log $URL < orders.txt`

    - `tail -F app.log | dynlog log append app --header host=$(hostname) --log $URL`
    """
    if key is not None and key_separator is not None:
        raise ConfigurationError("--key and --key-separator exclude each other")
    if key_separator == "":
        raise ConfigurationError("--key-separator needs at least one character")
    write_diagnostics(log_format)
    form = LineForm(
        key=None if key is None else key.encode(),
        separator=None if key_separator is None else key_separator.encode(),
        headers={name: value.encode() for name, value in parse_pairs("header", header or []).items()},
    )
    serve(lambda stop: _append(log, topic, partition, form, as_json, stop))


@dataclass(frozen=True, slots=True)
class LineForm:
    """How a line becomes a record."""

    key: bytes | None
    separator: bytes | None
    headers: dict[str, bytes]

    def split(self, line: bytes) -> tuple[bytes | None, bytes] | None:
        """Key and body; None if the separator is missing."""
        if self.separator is None:
            return self.key, line
        key, found, body = line.partition(self.separator)
        return (key, body) if found else None


async def _append(
    url: str, topic: str, partition: int | None, form: LineForm, as_json: bool, stop: asyncio.Event
) -> None:
    async with open_existing(url) as log:
        if partition is not None:
            await log.position(topic, partition)  # refuses it before anything is read
        if sys.stdin.isatty():
            say("every line is a record; Ctrl-D ends")
        source = LineInput(sys.stdin.fileno(), log.capabilities.max_batch_bytes)
        tickets: Tickets = asyncio.Queue(MAX_UNPRINTED)
        try:
            async with Producer(log, topic, policy=POLICY) as producer, asyncio.TaskGroup() as group:
                group.create_task(_print(tickets, LineOutput(), as_json))
                refusal = await _take(source, producer, partition, form, tickets, stop)
                await tickets.put(None)
        except* LineRefused as errors:
            # The producer is closed by now, so it is known what became of the lines after the one that failed.
            stored = await _stored_after(tickets)
            more = f"; {stored} lines after it were stored nevertheless" if stored else ""
            raise LineRefused(f"{errors.exceptions[0]}{more}") from None
        if refusal is not None:
            raise refusal
        if source.unfinished:
            say(f"{source.unfinished} bytes of an unfinished line were not taken")


async def _take(
    source: LineInput,
    producer: Producer,
    partition: int | None,
    form: LineForm,
    tickets: Tickets,
    stop: asyncio.Event,
) -> LineRefused | None:
    """Submits every line; returns what was wrong with the one at which it had to stop."""
    number = 0
    try:
        async for lines in source.chunks(stop):
            for line in lines:
                number += 1
                split = form.split(line)
                if split is None:
                    return LineRefused(f"line {number}: no {form.separator!r} between key and body, it was not taken")
                record = Record(key=split[0], headers=form.headers, parts=(split[1],))
                await tickets.put(await producer.submit(record, partition=partition))
    except LineRefused as error:
        return error
    except DynlogError as error:
        return LineRefused(f"line {number}: {error}")
    return None


async def _print(tickets: Tickets, output: LineOutput, as_json: bool) -> None:
    """Prints each outcome, in the order of the lines, once it is known; raises LineRefused at the first failure."""
    number = 0
    lines: list[str] = []
    while (ticket := await tickets.get()) is not None:
        number += 1
        if not ticket.done:
            await _write(lines, output)
        try:
            partition, offset = await ticket
        except DynlogError as error:
            await _write(lines, output)
            raise LineRefused(f"line {number}: {error}") from None
        if as_json:
            lines.append(json.dumps({"line": number, "partition": partition, "offset": offset}))
        else:
            lines.append(f"{partition} {offset}")
        if tickets.empty():
            await _write(lines, output)
    await _write(lines, output)


async def _write(lines: list[str], output: LineOutput) -> None:
    if lines:
        await output.write("\n".join([*lines, ""]).encode())
        lines.clear()


async def _stored_after(tickets: Tickets) -> int:
    """How many of the tickets that nobody looked at yet were stored."""
    stored = 0
    while not tickets.empty():
        ticket = tickets.get_nowait()
        if ticket is not None:
            with suppress(DynlogError):
                await ticket
                stored += 1
    return stored
