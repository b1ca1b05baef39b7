"""How entries of a bucket are shown: as JSON exactly, as text for reading; and how the commands open a bucket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from dynlog.cli.log_open import open_within
from dynlog.cli.log_records import SHOWN_BYTES, buffer_json, printable
from dynlog.cli.output import human_time
from dynlog.kv.bucket import Bucket
from dynlog.kv.rows import Entry
from dynlog.kv.store import KeyValue, open_kv
from dynlog.timing import Deadline

BucketName = Annotated[str, typer.Argument(help="The bucket.", show_default=False)]
Key = Annotated[str, typer.Argument(help="The key.", show_default=False)]
Value = Annotated[str, typer.Argument(help="The value; `-` reads it from stdin.", show_default=False)]
Ttl = Annotated[str | None, typer.Option("--ttl", help="The key is gone after this time, as in 30s, 15m.")]
SHOWN_CHARACTERS = 100
"""How much of a value is shown in a table; `get` shows all of it."""
Timeout = Annotated[str, typer.Option("--timeout", help="How long it may take, as in 30s.")]


@asynccontextmanager
async def open_store(log: str, objects: str | None, timeout: float, *, create: bool = False) -> AsyncIterator[KeyValue]:
    """The buckets of a log.  A command is gone soon, so it leaves compacting to others."""
    async with (
        open_within(timeout, log, objects, create=create) as (opened, store),
        open_kv(opened, store, compaction=None) as kv,
    ):
        yield kv


@asynccontextmanager
async def open_bucket(log: str, bucket: str, objects: str | None, timeout: float) -> AsyncIterator[Bucket]:
    """A bucket as the log has it now."""
    deadline = Deadline(timeout)
    async with open_store(log, objects, timeout) as kv:
        yield await kv.bucket(bucket, timeout=deadline.remaining)


def entry_json(entry: Entry) -> dict[str, Any]:
    """Every field is always there."""
    return {
        "key": entry.key,
        "value": buffer_json(entry.value),
        "revision": entry.revision,
        "created": entry.created,
        "changes": entry.changes,
        "time": human_time(entry.time_ms),
        "lease": entry.lease or None,
        "ttl_ms": entry.ttl_ms or None,
        "op": entry.op.name.lower(),
    }


def json_line(value: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def short_text(value: bytes) -> str:
    """The value for a table, cut if it is long."""
    text = value_text(value[: 4 * SHOWN_CHARACTERS])  # a character has at most four bytes
    if len(text) <= SHOWN_CHARACTERS and len(value) <= 4 * SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(value)} bytes)"


def value_text(value: bytes) -> str:
    """The value for people, on one line."""
    text = printable(value)
    if text is None:
        more = "..." if len(value) > SHOWN_BYTES else ""
        return f"<{len(value)} bytes {value[:SHOWN_BYTES].hex()}{more}>"
    return text
