"""``dynlog discovery import``: takes over what a fleet still keeps elsewhere, once or for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from dynlog.adapters.etcd import read_etcd
from dynlog.adapters.etcd_http import Place, etcd_place
from dynlog.cli.app import PartialSuccess, one_line
from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.entities import BucketOption
from dynlog.cli.kv_show import json_line, open_store
from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, parse_duration, parse_timeout
from dynlog.cli.output import LineOutput
from dynlog.cli.run import run, serve, until_stopped
from dynlog.discovery.directory import BUCKET
from dynlog.discovery.following import EVERY_S, follow, import_leased
from dynlog.discovery.importing import ROOTS, ForeignKey, Imported
from dynlog.errors import ConfigurationError
from dynlog.kv.bucket import Bucket
from dynlog.timing import Deadline

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def discovery() -> None:
    """Entities register themselves under leases, in a key-value bucket; `dynlog entities` shows them.

    - `dynlog discovery import etcd http://127.0.0.1:2379 --follow --log $URL`
    """


class System(StrEnum):
    """What can be imported from."""

    ETCD = "etcd"


@app.command("import")
def import_(
    system: Annotated[System, typer.Argument(help="What is imported from.", show_default=False)],
    url: Annotated[
        str,
        typer.Argument(envvar="ETCD_ENDPOINTS", help="Where it is, as in http://host:2379.", show_default=False),
    ],
    log: LogUrl,
    follow_: Annotated[bool, typer.Option("--follow", help="Go on until stopped.")] = False,
    every: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help=f"With `--follow`: how often etcd is read; {EVERY_S:g}s by default."),
    ] = None,
    ttl: Annotated[
        str, typer.Option(metavar="DURATION", help="What was imported ends so long after etcd was last read.")
    ] = "60s",
    bucket: BucketOption = BUCKET,
    timeout: Annotated[str, typer.Option("--timeout", help="How long one import may take, as in 30s.")] = "60s",
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Take over the instances and model cards that a fleet of Dynamo's keeps in etcd; nothing is written there.

    Everything is read at one revision. Values are kept byte for byte, under the same keys, and marked as foreign. What
    was registered here is never written over.

    All that was imported hangs on a lease of the import, and so it ends `--ttl` after etcd was last read: when etcd is
    away for longer, or the import, or the log from it. Run it again in time, or have it `--follow`; started again
    within the TTL, or beside another one with the same TTL, it keeps the same lease alive and nobody notices.

    User, password and TLS: `https://user:password@host:2379?tls_ca=FILE`, or Dynamo's `ETCD_AUTH_...` variables. Exit
    status 3 if a key could not be taken over.

    With `--json`: `{"source", "source_revision", "added", "changed", "unchanged", "removed", "leased", "kept",
    "refused"}`; with `--follow` a line of that for the first import and each that changed something.

    - `dynlog discovery import etcd http://127.0.0.1:2379 --log sqlite:///tmp/fleet.db`

    - `dynlog discovery import etcd http://127.0.0.1:2379 --follow --ttl 30s --log sqlite:///tmp/fleet.db`
    """
    if every is not None and not follow_:
        raise ConfigurationError("--every is for --follow: without it there is one import")
    write_diagnostics(log_format)
    seconds, ttl_s = parse_timeout(timeout), parse_duration(ttl)
    every_s = EVERY_S if every is None else parse_duration(every)
    etcd, output = _Etcd(etcd_place(url)), LineOutput()

    async def once() -> Imported:
        deadline = Deadline(seconds)
        keys = await etcd.read(seconds)  # before anything is made here
        async with _open(log, bucket, deadline.remaining) as opened:
            return await import_leased(opened, etcd.shown, keys, ttl_s=ttl_s, timeout=deadline.remaining)

    async def on_and_on() -> None:
        told: list[Imported] = []
        await etcd.read(seconds)
        async with _open(log, bucket, seconds) as opened:

            async def tell(done: Imported) -> None:
                if not told or _says_something(done, told[-1]):
                    await output.write(_line(etcd, done, as_json))
                told[:] = [done]

            await follow(opened, etcd.shown, etcd.read, tell, ttl_s=ttl_s, every_s=every_s, timeout=seconds)

    if follow_:
        serve(lambda stop: until_stopped(on_and_on(), stop))
        return
    done = run(once())
    print(_line(etcd, done, as_json).decode(), end="")
    if done.refused:
        key, why = next(iter(done.refused.items()))
        raise PartialSuccess(f"{len(done.refused)} keys were not taken over; the first is {key}: {why}")


class _Etcd:
    """The etcd, and at which revision it was last read."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.shown = place.shown
        self.revision = 0

    async def read(self, timeout: float) -> Sequence[ForeignKey]:
        image = await read_etcd(self._place, [root.encode() for root in ROOTS], timeout=timeout)
        self.revision = image.revision
        return [
            ForeignKey(entry.key, entry.value, entry.mod_revision, entry.lease, image.leases.get(entry.lease))
            for entry in image.entries
        ]


@asynccontextmanager
async def _open(log: str, bucket: str, timeout: float) -> AsyncIterator[Bucket]:
    deadline = Deadline(timeout)
    async with open_store(log, None, timeout, create=True) as kv:
        yield await kv.create(bucket, exist_ok=True, timeout=deadline.remaining)


def _says_something(done: Imported, before: Imported) -> bool:
    """Whether anything happened, or something that is not taken over is not the same as before."""
    happened = done.added or done.changed or done.removed
    return bool(happened) or (done.kept, done.refused) != (before.kept, before.refused)


def _line(etcd: _Etcd, done: Imported, as_json: bool) -> bytes:
    """What an import did: a line of JSON, or some for people."""
    facts: dict[str, Any] = {
        "source": etcd.shown, "source_revision": etcd.revision, "added": done.added, "changed": done.changed,
        "unchanged": done.unchanged, "removed": done.removed, "leased": done.leased,
    }  # fmt: skip
    if as_json:
        return json_line({**facts, "kept": done.kept, "refused": done.refused})
    width = max(map(len, facts))
    lines = [f"{name.replace('_', ' ').ljust(width)}  {value}" for name, value in facts.items()]
    lines += [f"kept  {key}: {why}" for key, why in done.kept.items()]
    lines += [f"refused  {key}: {why}" for key, why in done.refused.items()]
    return "".join(f"{one_line(line)}\n" for line in lines).encode()
