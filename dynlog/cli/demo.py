"""`dynlog demo`: the command; what happens is in `demo_run`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from dynlog.cli.app import FAILED
from dynlog.cli.options import check_log_url, check_objects_url
from dynlog.cli.output import print_json, say
from dynlog.cli.run import serve, until_stopped


def _log_url(text: str | None) -> str | None:
    return text and check_log_url(text)


def demo(
    log: Annotated[
        str | None,
        typer.Option(
            "--log", metavar="URL", callback=_log_url, help="A log to use instead of a temporary SQLite file."
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            "--objects",
            metavar="URL",
            callback=check_objects_url,
            help="Where snapshots go, instead of a temporary folder.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The measurements as one JSON document on stdout.")] = False,
) -> None:
    """A fleet, a router that is killed with SIGKILL, and its state back from the log.

    Eight workers publish the KV events of a production trace (a sample of Mooncake's) into a log; a router process
    follows and snapshots and is killed; a new one comes back from snapshot and log; its state is compared with a fold
    of plain dictionaries over all events.  It leaves nothing behind unless you name a log.

    Exit status 1 if the states differ.  SIGINT and SIGTERM end it in order, with exit status 0.
    """
    from dynlog.cli.demo_run import run_demo

    found = serve(lambda stop: until_stopped(run_demo(log, objects, say if as_json else print), stop))
    if found is None:
        say("interrupted: the states were not compared")
        return
    (report,) = found
    if as_json:
        print_json(dataclasses.asdict(report))
    if not report.same:
        raise typer.Exit(FAILED)
