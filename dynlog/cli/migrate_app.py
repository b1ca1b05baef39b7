"""``dynlog migrate nats``: what a deployment keeps in JetStream moves into a log and an object store."""

from __future__ import annotations

from typing import Annotated

import typer

from dynlog.cli.asking import ask, check_may_ask
from dynlog.cli.migrate_options import (
    Concurrency,
    Ends,
    Exclude,
    ModelRoot,
    Name,
    Only,
    PartitionBy,
    Partitions,
    Rate,
    StoreUrl,
    TopicOption,
    UnusedNats,
    UnusedStore,
)
from dynlog.cli.nats_options import Ca, Cert, Creds, Key, NatsUrl, check_nats_installed
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.run import run

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
nats = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
app.add_typer(nats, name="nats", help="From NATS JetStream: object buckets, models, KV buckets, streams, router state.")
DEFAULT_NAME = "nats"


@app.callback()
def migrate() -> None:
    """The way here from what a fleet used before."""


@nats.callback()
def nats_() -> None:
    """From NATS JetStream, which is only ever read: no message, consumer or setting of it is changed.

        dynlog migrate nats plan     --nats $NATS --log $LOG --objects $OBJECTS
        dynlog migrate nats apply    --nats $NATS --log $LOG --objects $OBJECTS
        dynlog migrate nats verify   --nats $NATS --log $LOG --objects $OBJECTS
        dynlog migrate nats status   --log $LOG
        dynlog migrate nats rollback --log $LOG --objects $OBJECTS

    Exit status: 0 done, 3 done in part (every name that was not is on stderr), 1 nothing of it was done, 2 wrong usage.
    """


@nats.command()
def plan(
    nats: NatsUrl,
    log: LogUrl,
    objects: StoreUrl,
    creds: Creds = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    only: Only = None,
    exclude: Exclude = None,
    name: Name = DEFAULT_NAME,
    topic: TopicOption = None,
    partitions: Partitions = 1,
    partition_by: PartitionBy = None,
    model_root: ModelRoot = None,
    as_json: AsJson = False,
) -> None:
    """Say what there is, what each thing becomes, and what will not fit and why; nothing is changed, here or there.

    It names the Dynamo release whose traces it finds, and how to take events from one that leaves none in JetStream.
    """
    check_nats_installed()
    from dynlog.cli import migrate_run

    ends = Ends(
        nats, log, objects, name, creds, ca, cert, key, only or (), exclude or (), topic, partitions, partition_by,
        model_root,
    )  # fmt: skip
    run(migrate_run.plan(ends, as_json=as_json))


@nats.command()
def apply(
    nats: NatsUrl,
    log: LogUrl,
    objects: StoreUrl,
    creds: Creds = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    only: Only = None,
    exclude: Exclude = None,
    name: Name = DEFAULT_NAME,
    topic: TopicOption = None,
    partitions: Partitions = 1,
    partition_by: PartitionBy = None,
    model_root: ModelRoot = None,
    concurrency: Concurrency = 4,
    rate: Rate = None,
    as_json: AsJson = False,
) -> None:
    """Move everything that the plan says; killed and run again it goes on where it was, and doubles nothing.

    Run it again later and it moves what is new. What cannot be moved is named and the rest goes on. A second apply at
    the same time is refused. The journal is in topic `dynlog.migration` of the log.
    """
    check_nats_installed()
    from dynlog.cli import migrate_run

    ends = Ends(
        nats, log, objects, name, creds, ca, cert, key, only or (), exclude or (), topic, partitions, partition_by,
        model_root, concurrency, rate,
    )  # fmt: skip
    run(migrate_run.apply(ends, as_json=as_json))


@nats.command()
def verify(
    nats: NatsUrl,
    log: LogUrl,
    objects: StoreUrl,
    creds: Creds = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    only: Only = None,
    exclude: Exclude = None,
    name: Name = DEFAULT_NAME,
    topic: TopicOption = None,
    partitions: Partitions = 1,
    partition_by: PartitionBy = None,
    model_root: ModelRoot = None,
    concurrency: Concurrency = 4,
    rate: Rate = None,
    as_json: AsJson = False,
) -> None:
    """Read source and target again and compare them, without asking the journal; give the options that apply had."""
    check_nats_installed()
    from dynlog.cli import migrate_run

    ends = Ends(
        nats, log, objects, name, creds, ca, cert, key, only or (), exclude or (), topic, partitions, partition_by,
        model_root, concurrency, rate,
    )  # fmt: skip
    run(migrate_run.verify(ends, as_json=as_json))


@nats.command()
def status(
    log: LogUrl,
    nats: UnusedNats = None,
    objects: UnusedStore = None,
    name: Name = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Say how far the migration is, from its journal: neither NATS nor the object store has to be there."""
    check_nats_installed()
    from dynlog.cli import migrate_run

    run(migrate_run.status(log, name, as_json=as_json))


@nats.command()
def rollback(
    log: LogUrl,
    objects: StoreUrl,
    nats: UnusedNats = None,
    only: Only = None,
    name: Name = DEFAULT_NAME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the migration made, and only that. It asks on a terminal and needs `--yes` elsewhere.

    What others changed, wrote into, read or mirror since stays and is named, with who it is and what to do (exit status
    3). The source is as it was; NATS need not be there.
    """
    check_nats_installed()
    from dynlog.cli import migrate_run

    check_may_ask(yes, f"removing what migration {name!r} made")
    if not yes:
        ask(f"Remove everything that migration {name!r} made?", "nothing was removed")
    run(migrate_run.rollback(log, objects, name, only or (), as_json=as_json))
