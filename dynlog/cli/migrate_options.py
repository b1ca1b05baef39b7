"""Options that the commands of ``dynlog migrate nats`` have in common, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dynlog.cli.options import check_objects_url, parse_size
from dynlog.errors import ConfigurationError


def parse_rate(text: str) -> int:
    """Bytes per second of ``50MiB`` or ``50MiB/s``."""
    size = parse_size(text.removesuffix("/s"))
    if size <= 0:
        raise typer.BadParameter(f"{text!r}: a rate above zero is needed, as in 50MiB/s")
    return size


StoreUrl = Annotated[
    str,
    typer.Option(
        "--objects",
        envvar="DYNLOG_OBJECTS",
        metavar="URL",
        callback=check_objects_url,
        help="Where objects, models and snapshots go, as in s3://bucket/prefix, file:///var/lib/fleet/objects.",
        show_default=False,
    ),
]
UnusedNats = Annotated[str | None, typer.Option("--nats", metavar="URL", help="As the others have it; not asked here.")]
UnusedStore = Annotated[
    str | None, typer.Option("--objects", metavar="URL", help="As the others have it; not asked here.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Only this bucket or stream; a pattern with *, and repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="NAME", help="Not this one; a pattern with *, and repeatable.")
]
Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="The migration: its journal and what it makes carry the name.")
]
TopicOption = Annotated[
    str | None,
    typer.Option("--topic", help="The router's topic; by default named as its stream is.", show_default=False),
]
Partitions = Annotated[int, typer.Option("--partitions", min=1, help="Of topics that are made.")]
PartitionBy = Annotated[
    str | None,
    typer.Option(
        "--partition-by", help="Streams: what stays together: subject, token:N or header:NAME.", show_default=False
    ),
]
ModelRoot = Annotated[
    str | None,
    typer.Option(
        "--model-root", metavar="PATH", show_default=False,
        help="References to models in copies name files below it; else the store's URL.",
    ),
]  # fmt: skip
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=64, help="Objects at once.")]
Rate = Annotated[
    int | None, typer.Option("--rate", parser=parse_rate, metavar="SIZE", help="At most so much a second, as in 50MiB.")
]


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a migration, and what is chosen of them."""

    nats: str
    log: str
    objects: str
    name: str
    creds: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    topic: str | None = None
    partitions: int = 1
    partition_by: str | None = None
    model_root: str | None = None
    concurrency: int = 4
    rate: int | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum() or len(self.name) > 64:
            raise ConfigurationError(f"--name {self.name!r}: 1 to 64 letters, digits, - and _")
