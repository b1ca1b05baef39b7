"""``dynlog mirror``: NATS and a log kept alike while old and new components run side by side."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.nats_options import Ca, Cert, Creds, Key, NatsUrl, check_nats_installed, check_nats_url
from dynlog.cli.options import AsJson, Diagnostics, LogFormat, LogUrl, check_log_url, parse_duration, parse_timeout
from dynlog.cli.run import run, serve
from dynlog.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
nats_app = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode="markdown")
app.add_typer(nats_app, name="nats")


class Direction(StrEnum):
    """Which way a mirror goes."""

    IN = "in"
    OUT = "out"


class Begin(StrEnum):
    """Where a mirror outwards begins that never ran."""

    EARLIEST = "earliest"
    END = "end"


@app.callback()
def mirror() -> None:
    """Keep another messaging system and a log alike while components move from one to the other."""


@nats_app.callback()
def nats(
    context: typer.Context,
    direction: Annotated[Direction | None, typer.Option(help="in: NATS into the log; out: the log to NATS.")] = None,
    nats: Annotated[
        str | None, typer.Option("--nats", envvar="DYNLOG_NATS", metavar="URL", help="The NATS server.")
    ] = None,
    log: Annotated[str | None, typer.Option("--log", envvar="DYNLOG_LOG", metavar="URL", help="The log.")] = None,
    topic: Annotated[str | None, typer.Option(help="The log's topic; inwards it is made if there is none.")] = None,
    stream: Annotated[str | None, typer.Option(help="Inwards: the JetStream stream. Nothing of it is lost.")] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            help="Inwards with --stream: only what matches. Inwards alone: a core subject, at most once. Outwards: "
            "where records may go; may be repeated, and be a pattern."
        ),
    ] = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Inwards: of a topic that is made.")] = None,
    partition_by: Annotated[
        str | None, typer.Option(help="Inwards: what stays together: subject, token:N or header:NAME.")
    ] = None,
    begin: Annotated[Begin, typer.Option("--from", help="Outwards, for the first time: where to begin.")] = (
        Begin.EARLIEST
    ),
    once: Annotated[bool, typer.Option("--once", help="End once all that is there now is mirrored.")] = False,
    reopen: Annotated[bool, typer.Option("--reopen", help="Inwards: go on although it was cut over.")] = False,
    every: Annotated[str, typer.Option(help="How often to say how far it is, as in 5s.")] = "5s",
    patience: Annotated[str, typer.Option(help="How long NATS or the log may be away, as in 10m.")] = "10m",
    creds: Creds = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: AsJson = False,
    log_format: Diagnostics = LogFormat.TEXT,
) -> None:
    """Mirror a JetStream stream (or core subjects) into a topic, or a topic to given NATS subjects, until stopped.

    Killed and started again it goes on where it stood: nothing is lost, nothing is there twice, the order stays. What
    came from one side never goes back to it, so both directions may run on the same pair. The stream is read without a
    consumer; outwards it writes only to the subjects that were given. What the other side cannot hold (too large, no
    such subject) is named in the log's topic `dynlog.mirror` (outwards the first thousand are named there, and the
    others counted), and the rest goes on; exit status 3 then.

    Inwards from a core subject there is no way back to what was published while nobody listened: at most once.

    With `--json` each line is `{"direction", "source", "target", "position", "behind", "seconds_behind", "outage",
    "copied", "already", "returned", "left_out", "missed"}`.

    - `dynlog mirror nats --direction in --stream orders --topic orders --nats nats://host:4222 --log $URL`

    - `dynlog mirror nats --direction out --topic orders --subject 'orders.*' --nats nats://host:4222 --log $URL`

    - `dynlog mirror nats status --log $URL`

    - `dynlog mirror nats cutover --stream orders --topic orders --nats nats://host:4222 --log $URL`
    """
    if context.invoked_subcommand is not None:
        return
    write_diagnostics(log_format)
    if direction is None or nats is None or log is None or topic is None:
        raise ConfigurationError("a mirror needs --direction in or out, --nats URL, --log URL and --topic NAME")
    check_nats_installed()
    from dynlog.cli.mirror_nats import Wanted, mirror

    access = (check_nats_url(nats), creds, ca, cert, key)
    wanted = Wanted(
        access=access, log=check_log_url(log), topic=topic, stream=stream, subjects=tuple(subject or ()),
        partitions=partitions, partition_by=partition_by, begin=begin.value, once=once, reopen=reopen,
        every_s=parse_timeout(every), patience_s=parse_timeout(patience), as_json=as_json,
    )  # fmt: skip
    wanted.check(direction.value)
    serve(lambda stop: mirror(direction.value, wanted, stop))


@nats_app.command()
def cutover(
    nats: NatsUrl,
    log: LogUrl,
    stream: Annotated[str, typer.Option(help="The stream of the old side.", show_default=False)],
    topic: Annotated[str, typer.Option(help="The topic that it is mirrored into.", show_default=False)],
    watch: Annotated[str, typer.Option(help="How long the stream has to be quiet, as in 10s.")] = "10s",
    creds: Creds = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """End the mirror of a stream into a topic at a recorded position, once nobody publishes into the stream any more.

    It watches the stream for so long. If something comes, it ends nothing, says what came on which subject and, where
    the server tells, from whom, and exits with status 1. Otherwise all that is left is copied, the position is written
    into the log's topic `dynlog.mirror`, and mirrors of this stream that run end with status 0.

    With `--json`: `{"stream", "topic", "sequence", "offsets", "time_ms"}`.

    - `dynlog mirror nats cutover --stream orders --topic orders --watch 30s --nats nats://host:4222 --log $URL`
    """
    check_nats_installed()
    from dynlog.cli.mirror_nats import cut_over_stream

    seconds = parse_duration(watch)
    run(cut_over_stream((nats, creds, ca, cert, key), log, stream, topic, seconds, as_json=as_json))


@nats_app.command()
def status(log: LogUrl, as_json: AsJson = False) -> None:
    """Show the mirrors that a log knows: how far each said that it is, what it left out, and which were cut over.

    A mirror writes this down every few seconds while it moves; how far behind one is it says itself.

    With `--json`: a list of `{"mirror", "direction", "topic", "sequences", "offsets", "counts", "time_ms", "cut_over",
    "left_out_count", "left_out"}`; outwards `left_out` names the first thousand and `left_out_count` counts all.

    - `dynlog mirror nats status --log $URL`
    """
    from dynlog.cli.mirror_status import show_status

    show_status(log, as_json=as_json)
