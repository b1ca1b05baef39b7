"""``dynlog entities``: who is there, as a tree."""

from __future__ import annotations

from typing import Annotated

import typer

from dynlog.cli.app import one_line
from dynlog.cli.kv_show import open_bucket
from dynlog.cli.options import AsJson, LogUrl, parse_timeout
from dynlog.cli.output import print_json
from dynlog.cli.run import run
from dynlog.discovery.directory import BUCKET, Directory, Listing
from dynlog.discovery.names import prefix_of
from dynlog.discovery.tree import listing_json, tree_lines
from dynlog.errors import BucketNotFound

BucketOption = Annotated[str, typer.Option("--bucket", help="The bucket in which entities are.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long it may take in all, as in 30s.")]


def entities(
    log: LogUrl,
    namespace: Annotated[str | None, typer.Option(help="Only entities of this namespace.")] = None,
    component: Annotated[str | None, typer.Option(help="Only of this component of it.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint of that.")] = None,
    bucket: BucketOption = BUCKET,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Show who is there: namespaces, components, endpoints, instances, and the models that they serve.

    An instance's id is shown in hexadecimal, as in keys, and in decimal, as in JSON; *foreign* is what dynlog did not
    register. Whoever is gone is shown until somebody who has the bucket open has heard a TTL of silence (`dynlog lease
    ls` says who is overdue).

    With `--json`: `{"revision", "entities": [{"key", "namespace", "component", "endpoint", "instance_id",
    "instance_hex", "addresses", "metadata", "incarnation", "lease", "revision", "foreign", "origin"}], "models",
    "unreadable"}`.

    - `dynlog entities --log $URL`

    - `dynlog entities --log $URL --namespace dynamo --component backend --json`
    """
    seconds = parse_timeout(timeout)
    prefix_of(namespace, component, endpoint)  # what is asked wrongly is said before anything is opened

    async def work() -> Listing:
        try:
            async with open_bucket(log, bucket, None, seconds) as opened:
                return await Directory(opened).list(namespace, component, endpoint)
        except BucketNotFound:
            raise BucketNotFound(
                "nobody has registered in this log yet: it has no such bucket; --bucket names another one, and "
                "'dynlog discovery import' takes over what is in etcd",
                bucket=bucket,
            ) from None

    listing = run(work())
    if as_json:
        print_json(listing_json(listing))
        return
    lines = list(tree_lines(listing))
    for line in lines or ["no entities"]:
        indent = len(line) - len(line.lstrip())
        print(" " * indent + one_line(line))
