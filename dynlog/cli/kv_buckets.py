"""``dynlog kv buckets`` and ``dynlog kv compact``: which buckets there are, and their care."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from dynlog.cli.kv_show import BucketName, Timeout, open_bucket, open_store
from dynlog.cli.options import AsJson, LogUrl, ObjectsUrl, parse_duration, parse_size, parse_timeout
from dynlog.cli.output import human_bytes, human_seconds, human_time, print_facts, print_json, print_table, say
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError
from dynlog.kv.compaction import Compacted
from dynlog.kv.settings import BucketSettings, topic_of
from dynlog.kv.store import BucketInfo
from dynlog.timing import Deadline


def buckets(
    log: LogUrl,
    create: Annotated[str | None, typer.Option("--create", metavar="NAME", help="Create this bucket.")] = None,
    history: Annotated[
        int | None, typer.Option(min=1, max=64, help="With `--create`: changes kept per key; 1 by default.")
    ] = None,
    ttl: Annotated[str | None, typer.Option(help="With `--create`: values are gone after this time.")] = None,
    max_value: Annotated[
        str | None,
        typer.Option(
            help="With `--create`: how long a value may be, as in 64KiB; by default about 1MiB, as the log takes it."
        ),
    ] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="NAME", help="Delete this bucket with all its keys.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With `--delete`: yes, really.")] = False,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """List the buckets of a log; with `--create` or `--delete` change that first.

    With `--json`: a list of `{"name", "settings", "created", "records", "bytes"}`.

    - `dynlog kv buckets --create settings --history 5 --log $URL`

    - `dynlog kv buckets --log $URL`
    """
    if create is None and (history, ttl, max_value) != (None, None, None):
        raise ConfigurationError("--history, --ttl and --max-value are for --create")
    if create is not None and delete is not None:
        raise ConfigurationError("--create and --delete exclude each other")
    if delete is not None and not yes:
        raise ConfigurationError(f"this deletes bucket {delete!r} with all its keys for everybody: add --yes")
    settings = BucketSettings(
        history=history or 1,
        max_value_bytes=None if max_value is None else parse_size(max_value),
        ttl_s=None if ttl is None else parse_duration(ttl),
    )
    seconds = parse_timeout(timeout)

    async def work() -> list[BucketInfo]:
        deadline = Deadline(seconds)
        async with open_store(log, objects, seconds, create=create is not None) as kv:
            if create is not None:
                await kv.create(create, settings, timeout=deadline.remaining)
            if delete is not None:
                await kv.delete(delete, timeout=deadline.remaining)
            return await kv.buckets(timeout=deadline.remaining)

    found = run(work())
    if as_json:
        print_json([_json(info) for info in found])
        return
    rows = [
        (
            info.name,
            info.settings.history,
            human_seconds(info.settings.ttl_s) if info.settings.ttl_s else "-",
            info.records,
            human_bytes(info.bytes),
            human_time(info.created_ms),
        )
        for info in found
    ]
    print_table(("BUCKET", "HISTORY", "TTL", "RECORDS", "SIZE", "CREATED"), rows, empty="no buckets")


def compact(
    bucket: BucketName,
    log: LogUrl,
    objects: ObjectsUrl = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long it may take, as in 10m.")] = "10m",
    as_json: AsJson = False,
) -> None:
    """Write a bucket's state anew at the end of its log and cut off what lies below; revisions stay.

    Processes that have the bucket open do this by themselves. What somebody still needs is not cut off: whoever that is
    stands under `blocked by`.

    With `--json`: `{"bucket", "start", "pictures", "bytes", "conflicts", "earliest", "blocked_by"}`.

    - `dynlog kv compact settings --log $URL`
    """
    seconds = parse_timeout(timeout)

    async def work() -> Compacted:
        async with open_bucket(log, bucket, objects, seconds) as opened:
            return await opened.compact(timeout=seconds)

    done = run(work())
    facts: dict[str, Any] = {
        "bucket": bucket,
        "start": done.start,
        "pictures": done.pictures,
        "bytes": done.bytes,
        "conflicts": done.conflicts,
        "earliest": done.truncation.earliest,
        "blocked_by": list(done.truncation.blocked_by),
    }
    blocked = ", ".join(done.truncation.blocked_by)
    if as_json:
        print_json(facts)
    else:
        print_facts({**facts, "bytes": human_bytes(done.bytes), "blocked_by": blocked or "nobody"})
    if blocked:
        say(
            f"what lies from {done.truncation.earliest} to {done.start} is still kept by {blocked} (see 'dynlog log "
            f"holders {topic_of(bucket)}'); it goes once they are past it, by whoever has the bucket open or by the "
            "next compaction"
        )


def _json(info: BucketInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "settings": asdict(info.settings),
        "created": human_time(info.created_ms),
        "records": info.records,
        "bytes": info.bytes,
    }
