"""``dynlog kv get``, ``ls``, ``history``, ``put``, ``create``, ``update``, ``delete``, ``purge``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

import typer

from dynlog.cli.kv_show import BucketName, Key, Timeout, Ttl, Value, entry_json, open_bucket, short_text, value_text
from dynlog.cli.log_records import printable
from dynlog.cli.options import AsJson, LogUrl, ObjectsUrl, parse_duration, parse_timeout
from dynlog.cli.output import LineOutput, human_time, print_json, print_table, say
from dynlog.cli.run import interruptible, run
from dynlog.errors import ConfigurationError, KeyNotFound
from dynlog.kv.bucket import Bucket
from dynlog.kv.rows import Entry
from dynlog.kv.settings import MAX_VALUE_BYTES


def get(
    bucket: BucketName,
    key: Key,
    log: LogUrl,
    raw: Annotated[bool, typer.Option("--raw", help="The value's bytes and nothing else.")] = False,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Print the value of a key, as it is at the end of the log now; exit status 1 if it is not there.

    With `--json`: `{"key", "value", "revision", "created", "changes", "time", "lease", "ttl_ms", "op"}`. A value that
    is no printable text is `{"base64": "..."}`.

    - `dynlog kv get settings model --log $URL`

    - `dynlog kv get settings image --raw --log $URL > image.png`
    """
    if raw and as_json:
        raise ConfigurationError("--raw and --json exclude each other")

    async def work() -> Entry:
        async with open_bucket(log, bucket, objects, parse_timeout(timeout)) as opened:
            entry = await opened.get(key)
            if entry is None:
                raise KeyNotFound("there is no such key", bucket=bucket, key=key)
            if raw:
                await LineOutput().write(entry.value)
            return entry

    entry = run(work())
    if as_json:
        print_json(entry_json(entry))
    elif not raw:
        print(value_text(entry.value))
        if printable(entry.value) is None:
            say("that value is no text: --raw writes its bytes, --json has them in base64")


def ls(
    bucket: BucketName,
    log: LogUrl,
    prefix: Annotated[str, typer.Argument(help="Only keys that begin so.", show_default=False)] = "",
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """List the keys of a bucket in order, with their values; of a long value the beginning.

    With `--json`: a list of what `get --json` gives.

    - `dynlog kv ls settings --log $URL`

    - `dynlog kv ls discovery v1/instances/ --json --log $URL | jq -r '.[].key'`
    """

    async def work() -> list[Entry]:
        async with open_bucket(log, bucket, objects, parse_timeout(timeout)) as opened:
            return await opened.entries(prefix)

    entries = run(work())
    if as_json:
        print_json([entry_json(entry) for entry in entries])
        return
    rows = [(e.key, e.revision, human_time(e.time_ms), e.lease or "-", short_text(e.value)) for e in entries]
    print_table(("KEY", "REVISION", "TIME", "LEASE", "VALUE"), rows, empty="no keys")


def history(
    bucket: BucketName,
    key: Key,
    log: LogUrl,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Show the last changes of a key, the oldest first: as many as the bucket keeps (`buckets --create --history`).

    With `--json`: a list of what `get --json` gives; `op` says how a key went: `delete`, `lapse` (its time to live),
    `release` (its lease).

    - `dynlog kv history settings model --log $URL`
    """

    async def work() -> list[Entry]:
        async with open_bucket(log, bucket, objects, parse_timeout(timeout)) as opened:
            return await opened.history(key)

    entries = run(work())
    if as_json:
        print_json([entry_json(entry) for entry in entries])
        return
    rows = [(e.revision, human_time(e.time_ms), e.op.name.lower(), short_text(e.value)) for e in entries]
    print_table(("REVISION", "TIME", "CHANGE", "VALUE"), rows, empty="nothing is known of it")


def put(
    bucket: BucketName,
    key: Key,
    value: Value,
    log: LogUrl,
    ttl: Ttl = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Set a key, whatever it had; prints the revision.

    With `--json`: `{"bucket", "key", "revision"}`.

    - `dynlog kv put settings model llama --log $URL`

    - `dynlog kv put settings chart - --log $URL < chart.json`
    """
    body, ttl_s = _value(value), None if ttl is None else parse_duration(ttl)
    _write(Target(log, bucket, key, objects, timeout), as_json, lambda b, s: b.put(key, body, ttl_s=ttl_s, timeout=s))


def create(
    bucket: BucketName,
    key: Key,
    value: Value,
    log: LogUrl,
    ttl: Ttl = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Set a key that must not be there; of several that create it exactly one succeeds, the others end with status 1.

    - `dynlog kv create locks nightly-run "$HOSTNAME" --ttl 1h --log $URL && ./nightly-run`
    """
    body, ttl_s = _value(value), None if ttl is None else parse_duration(ttl)
    _write(
        Target(log, bucket, key, objects, timeout), as_json, lambda b, s: b.create(key, body, ttl_s=ttl_s, timeout=s)
    )


def update(
    bucket: BucketName,
    key: Key,
    value: Value,
    log: LogUrl,
    revision: Annotated[int, typer.Option(min=0, help="The revision that is replaced.", show_default=False)],
    ttl: Ttl = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Set a key only if it is at that revision; else exit status 1, and the message says where it is.

    - `dynlog kv update settings model qwen --revision 17 --log $URL`
    """
    body, ttl_s = _value(value), None if ttl is None else parse_duration(ttl)
    _write(
        Target(log, bucket, key, objects, timeout),
        as_json,
        lambda b, s: b.update(key, body, revision, ttl_s=ttl_s, timeout=s),
    )


def delete(
    bucket: BucketName,
    key: Key,
    log: LogUrl,
    revision: Annotated[int | None, typer.Option(min=0, help="Only if it is at this revision.")] = None,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Delete a key; exit status 1 if it is not there.

    - `dynlog kv delete settings model --log $URL`
    """

    async def work(opened: Bucket, seconds: float) -> int:
        gone = await opened.delete(key, revision, timeout=seconds)
        if gone is None:
            raise KeyNotFound("there is no such key", bucket=bucket, key=key)
        return gone

    _write(Target(log, bucket, key, objects, timeout), as_json, work)


def purge(
    bucket: BucketName,
    key: Key,
    log: LogUrl,
    objects: ObjectsUrl = None,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Forget the history of a key, all but its present value.

    - `dynlog kv purge settings model --log $URL`
    """

    async def work(opened: Bucket, seconds: float) -> int:
        await opened.purge(key, timeout=seconds)
        return opened.revision

    _write(Target(log, bucket, key, objects, timeout), as_json, work)


def _value(text: str) -> bytes:
    if text != "-":
        return text.encode(errors="surrogateescape")
    with interruptible():  # a person may be typing
        body = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    if len(body) > MAX_VALUE_BYTES:
        raise ConfigurationError(
            f"the value on stdin has more than the {MAX_VALUE_BYTES} bytes that any bucket takes; put it into an "
            "object store (dynlog objects put) and its name here"
        )
    return body


class Target(NamedTuple):
    """What is written to."""

    log: str
    bucket: str
    key: str
    objects: str | None
    timeout: str


def _write(target: Target, as_json: bool, what: Callable[[Bucket, float], Awaitable[int]]) -> None:
    seconds = parse_timeout(target.timeout)

    async def work() -> int:
        async with open_bucket(target.log, target.bucket, target.objects, seconds) as opened:
            return await what(opened, seconds)

    revision = run(work())
    if as_json:
        print_json({"bucket": target.bucket, "key": target.key, "revision": revision})
    else:
        print(revision)
