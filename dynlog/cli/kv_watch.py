"""``dynlog kv watch``: what is there, then every change, for ever; and never a gap in silence."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from dynlog.cli.app import one_line
from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.kv_show import BucketName, entry_json, json_line, open_bucket, value_text
from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, ObjectsUrl, parse_timeout
from dynlog.cli.output import LineOutput
from dynlog.cli.run import serve, until_stopped
from dynlog.kv.watch import Changed, Event, Present, Ready, Resync, Watch


def watch(
    bucket: BucketName,
    log: LogUrl,
    key: Annotated[str | None, typer.Argument(help="Only this key.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Only keys that begin so.")] = None,
    from_revision: Annotated[
        int | None, typer.Option(min=-1, help="Begin with the changes behind this revision instead of the state.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    objects: ObjectsUrl = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long opening may take, as in 30s.")] = "10m",
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Print what is there, a line `ready`, and then every change in order, until stopped.

    Where changes had to be passed over there is a line `resync`, and the state follows once more. It ends with exit
    status 1 if the bucket is deleted.

    With `--json` an event is `{"event": "present" | "changed", ...}` with the fields of `get --json`,
    `{"event": "ready", "revision"}` or `{"event": "resync", "reason"}`.

    - `dynlog kv watch settings --log $URL`

    - `dynlog kv watch settings model --log $URL`

    - `dynlog kv watch discovery --prefix v1/instances/ --json --log $URL`
    """
    write_diagnostics(log_format)
    seconds = parse_timeout(timeout)

    async def work() -> None:
        output = LineOutput()
        gone = asyncio.ensure_future(output.reader_gone())
        try:
            async with (
                open_bucket(log, bucket, objects, seconds) as opened,
                opened.watch(key, prefix=prefix, from_revision=from_revision) as watching,
            ):
                left = limit
                while left is None or left > 0:
                    event = await _next(watching, gone)
                    await output.write(json_line(event_json(event)) if as_json else event_text(event))
                    left = None if left is None else left - 1
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    serve(lambda stop: until_stopped(work(), stop))


async def _next(watching: Watch, gone: asyncio.Future[None]) -> Event:
    """The next event; raises BrokenPipeError once whoever read the output is gone."""
    coming = asyncio.ensure_future(watching.next())
    try:
        await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.result()
        event = coming.result()
        assert event is not None
        return event
    finally:  # also when the command is stopped: nobody else would look at how it ends
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    match event:
        case Present(entry):
            return {"event": "present", **entry_json(entry)}
        case Changed(entry):
            return {"event": "changed", **entry_json(entry)}
        case Ready(revision):
            return {"event": "ready", "revision": revision}
        case Resync(reason):
            return {"event": "resync", "reason": reason}


def event_text(event: Event) -> bytes:
    """An event for people, on one line."""
    match event:
        case Present(entry):
            text = f"present  {entry.revision}  {entry.key}  {value_text(entry.value)}"
        case Changed(entry):
            text = f"{entry.op.name.lower()}  {entry.revision}  {entry.key}  {value_text(entry.value)}"
        case Ready(revision):
            text = f"ready  {revision}"
        case Resync(reason):
            text = f"resync  {reason}"
    return one_line(text).rstrip().encode() + b"\n"
