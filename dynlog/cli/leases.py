"""``dynlog lease ls``: who holds which lease, and which keys are gone when it ends."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynlog.cli.kv_show import Timeout, open_store
from dynlog.cli.options import AsJson, LogUrl, ObjectsUrl, parse_timeout
from dynlog.cli.output import human_seconds, human_time, print_json, print_table
from dynlog.cli.run import run
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_fold import Lease

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
SHOWN_KEYS = 3


@app.callback()
def lease() -> None:
    """Leases of processes in key-value buckets: a key that is bound to one is gone when it ends.

    - `dynlog lease ls --log $URL`
    """


@app.command()
def ls(
    log: LogUrl,
    bucket: Annotated[str | None, typer.Argument(help="Only leases in this bucket.", show_default=False)] = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """List the leases that live, by bucket and in the order in which they were granted.

    The token is the fencing token, which only rises; *heard* is the revision of the last heartbeat.  The lease of a
    process that is gone is shown until it is expired, which takes its TTL and somebody who has the bucket open.

    With `--json`: a list of `{"bucket", "lease", "owner", "token", "ttl_ms", "granted", "heard", "keys"}`.

    - `dynlog lease ls --log $URL`

    - `dynlog lease ls fleet --json --log $URL`
    """
    seconds = parse_timeout(timeout)

    async def work() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with open_store(log, objects, seconds) as kv:
            names = [info.name for info in await kv.buckets(timeout=seconds)] if bucket is None else [bucket]
            for name in names:
                opened = await kv.bucket(name, timeout=seconds)
                leases = sorted(opened.leases.values(), key=lambda one: one.token)
                found += [_json(opened, one) for one in leases]
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
            one["heard"],
            _keys(one["keys"]),
        )
        for one in found
    ]
    headings = ("BUCKET", "LEASE", "OWNER", "TOKEN", "TTL", "GRANTED", "HEARD", "KEYS")
    print_table(headings, rows, empty="no leases")


def _json(bucket: Bucket, lease: Lease) -> dict[str, Any]:
    return {
        "bucket": bucket.name,
        "lease": lease.id,
        "owner": lease.owner,
        "token": lease.token,
        "ttl_ms": lease.ttl_ms,
        "granted": human_time(lease.granted_ms),
        "heard": lease.beat,
        "keys": sorted(bucket.keys_of(lease.id)),
    }


def _keys(keys: list[str]) -> str:
    shown = ", ".join(keys[:SHOWN_KEYS])
    return f"{shown} and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else shown or "-"
