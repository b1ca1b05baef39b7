"""``dynlog lease ls``: who holds which lease, and which keys are gone when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

from dynlog.batch import Position
from dynlog.cli.kv_show import Timeout
from dynlog.cli.log_open import open_within
from dynlog.cli.options import AsJson, LogUrl, ObjectsUrl, parse_timeout
from dynlog.cli.output import human_seconds, human_time, print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import DeadlineExceeded, OffsetTruncated
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_fold import Lease
from dynlog.kv.store import open_kv
from dynlog.log import Log
from dynlog.timing import SYSTEM_CLOCK, Deadline

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
SHOWN_KEYS = 3


@app.callback()
def lease() -> None:
    """Leases of processes in key-value buckets: a key that is bound to one is gone when it ends.

    - `dynlog lease ls --log $URL`
    """


class Beat(NamedTuple):
    """When a lease was last heard of, by log time; not ``exact`` where a compaction has taken that record away: the
    oldest one that is there came later."""

    time_ms: int
    exact: bool


@app.command()
def ls(
    log: LogUrl,
    bucket: Annotated[str | None, typer.Argument(help="Only leases in this bucket.", show_default=False)] = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """List the leases that have not ended, by bucket and in the order in which they were granted.

    The token is the fencing token, which only rises. A lease whose process is gone ends when somebody who has the
    bucket open has heard its full TTL of silence; where nobody has it open, and this command has it for a moment only,
    it goes on being listed. `overdue` says that its last heartbeat is longer ago than its TTL, by log time and this
    machine's clock: its holder has stopped, but its keys are still there.

    With `--json`: a list of `{"bucket", "lease", "owner", "token", "ttl_ms", "granted", "heard", "last_beat",
    "silent_ms", "overdue", "keys"}`; `heard` is the revision of the last heartbeat. `last_beat` is null where a
    compaction took it away; `silent_ms` is then what it is at least.

    - `dynlog lease ls --log $URL`

    - `dynlog lease ls fleet --json --log $URL`
    """
    seconds = parse_timeout(timeout)

    async def work() -> list[dict[str, Any]]:
        deadline = Deadline(seconds)
        found: list[dict[str, Any]] = []
        async with open_within(seconds, log, objects) as (opened, store), open_kv(opened, store, compaction=None) as kv:
            named = [bucket] if bucket is not None else [i.name for i in await kv.buckets(timeout=deadline.remaining)]
            for name in named:
                there = await kv.bucket(name, timeout=deadline.remaining)
                leases = sorted(there.leases.values(), key=lambda one: one.token)
                beats = await _beats(opened, there, {one.beat for one in leases}, deadline)
                found += [_json(there, one, beats[one.beat]) for one in leases]
        return found

    found = run(work())
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["bucket"],
            one["lease"],
            one["owner"],
            one["token"],
            human_seconds(one["ttl_ms"] / 1000),
            one["granted"],
            _silence(one),
            _keys(one["keys"]),
        )
        for one in found
    ]
    headings = ("BUCKET", "LEASE", "OWNER", "TOKEN", "TTL", "GRANTED", "LAST BEAT", "KEYS")
    print_table(headings, rows, empty="no leases")


async def _beats(log: Log, bucket: Bucket, offsets: set[int], deadline: Deadline) -> Mapping[int, Beat]:
    """When the records at those offsets were appended."""
    topic = bucket.follower.topic
    try:
        async with asyncio.timeout(deadline.remaining):
            return {at: await _beat(log, Position(topic.name, topic.incarnation, 0, at)) for at in offsets}
    except TimeoutError:
        raise DeadlineExceeded(f"bucket {bucket.name!r}: no time left while its heartbeats were looked at") from None


async def _beat(log: Log, position: Position) -> Beat:
    """Of the record there, or of the first one behind it: the lease lives, so there is one."""
    offset = position.offset
    while True:
        try:
            batch = await log.read(position, max_records=1)
        except OffsetTruncated as gone:
            position = position._replace(offset=gone.earliest)
            continue
        if len(batch):
            return Beat(batch.log_times[0], batch.offsets[0] == offset)
        position = batch.next_position


def _json(bucket: Bucket, lease: Lease, beat: Beat) -> dict[str, Any]:
    silent_ms = max(SYSTEM_CLOCK.time_ms() - beat.time_ms, 0)
    return {
        "bucket": bucket.name,
        "lease": lease.id,
        "owner": lease.owner,
        "token": lease.token,
        "ttl_ms": lease.ttl_ms,
        "granted": human_time(lease.granted_ms),
        "heard": lease.beat,
        "last_beat": human_time(beat.time_ms) if beat.exact else None,
        "silent_ms": silent_ms,
        "overdue": silent_ms > lease.ttl_ms,
        "keys": sorted(bucket.keys_of(lease.id)),
    }


def _silence(one: Mapping[str, Any]) -> str:
    ago = f"{one['silent_ms'] / 1000:.1f}s ago"
    return f"{'' if one['last_beat'] else 'over '}{ago}{', overdue' if one['overdue'] else ''}"


def _keys(keys: list[str]) -> str:
    shown = ", ".join(keys[:SHOWN_KEYS])
    return f"{shown} and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else shown or "-"
