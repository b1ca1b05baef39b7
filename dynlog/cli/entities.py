"""``dynlog entities``: who is there, as a tree."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynlog.cli.app import one_line
from dynlog.cli.kv_show import open_store
from dynlog.cli.options import AsJson, LogUrl, parse_timeout
from dynlog.cli.output import print_json
from dynlog.cli.run import run
from dynlog.discovery.directory import BUCKET, Directory, Listing
from dynlog.discovery.names import prefix_of
from dynlog.discovery.tree import listing_json, tree_lines
from dynlog.entity import DynamoEntityID
from dynlog.errors import BucketNotFound
from dynlog.kv.store import KeyValue
from dynlog.network.joining import BUCKET as NETWORK
from dynlog.network.registry_look import Look, look_at
from dynlog.timing import Deadline

BucketOption = Annotated[str, typer.Option("--bucket", help="The bucket in which entities are.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long it may take in all, as in 30s.")]


def entities(
    log: LogUrl,
    namespace: Annotated[str | None, typer.Option(help="Only entities of this namespace.")] = None,
    component: Annotated[str | None, typer.Option(help="Only of this component of it.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint of that.")] = None,
    bucket: BucketOption = BUCKET,
    network: Annotated[str, typer.Option("--network", help="The bucket in which the network's members are.")] = NETWORK,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Show who is there: namespaces, components, endpoints, instances, and the models that they serve.

    Below these stand the members of the network, each under the collections that it belongs to, with its addresses; of
    a namespace, component or endpoint only what belongs to the collection of that name (`dynamo`, `dynamo/backend`).

    An instance's id is shown in hexadecimal, as in keys, and in decimal, as in JSON; *foreign* is what dynlog did not
    register. Whoever is gone is shown until somebody who has the bucket open has heard a TTL of silence (`dynlog lease
    ls` says who is overdue).

    With `--json`: `{"revision", "entities": [{"key", "namespace", "component", "endpoint", "instance_id",
    "instance_hex", "addresses", "metadata", "incarnation", "lease", "revision", "foreign", "origin"}], "models",
    "unreadable", "network": {"offset", "members": [{"entity", "incarnation", "parents", "addresses", "host",
    "process", "interests"}], "broken", "unreadable"}}`; without a network that is null.

    - `dynlog entities --log $URL`

    - `dynlog entities --log $URL --namespace dynamo --component backend --json`
    """
    seconds = parse_timeout(timeout)
    prefix_of(namespace, component, endpoint)  # what is asked wrongly is said before anything is opened
    asked = [part for part in (namespace, component, endpoint) if part]
    top = DynamoEntityID.collection("/".join(asked)) if asked else None

    async def work() -> tuple[Listing | None, Look | None]:
        deadline = Deadline(seconds)
        async with open_store(log, None, seconds) as kv:
            listing = await _listed(kv, bucket, deadline, namespace, component, endpoint)
            look = await _looked(kv, network, deadline)
        if listing is None and look is None:
            raise BucketNotFound(
                "nobody has registered in this log yet: it has no such bucket, nor one of a network; --bucket and "
                "--network name others, and 'dynlog discovery import' takes over what is in etcd",
                bucket=bucket,
            )
        return listing, look

    listing, look = run(work())
    found = listing or Listing(-1, [], [], {})
    if as_json:
        said = {**listing_json(found), "network": None if look is None else _look_json(look, top)}
        print_json(said if listing else {**said, "revision": None})
        return
    lines = [*tree_lines(found), *(_look_lines(look, top) if look is not None else ())]
    for line in lines or ["no entities"]:
        indent = len(line) - len(line.lstrip())
        print(" " * indent + one_line(line))


async def _listed(
    kv: KeyValue, bucket: str, deadline: Deadline, namespace: str | None, component: str | None, endpoint: str | None
) -> Listing | None:
    """Who is in the bucket; None if there is no such bucket."""
    try:
        opened = await kv.bucket(bucket, timeout=deadline.remaining)
    except BucketNotFound:
        return None
    return await Directory(opened).list(namespace, component, endpoint)


async def _looked(kv: KeyValue, bucket: str, deadline: Deadline) -> Look | None:
    try:
        return await look_at(await kv.bucket(bucket, timeout=deadline.remaining))
    except BucketNotFound:
        return None


def _look_lines(look: Look, top: DynamoEntityID | None) -> list[str]:
    tree = look.view.tree(top).splitlines()
    lines = [f"network, offset {look.view.offset}", *(f"  {line}" for line in tree)] if tree else []
    return lines + [f"unreadable {key}: {reason}" for key, reason in look.unreadable.items()]


def _look_json(look: Look, top: DynamoEntityID | None) -> dict[str, Any]:
    view = look.view
    members = [m for m in view.members() if top is None or m.entity == top or view.is_below(m.entity, top)]
    return {
        "offset": view.offset,
        "members": [
            {
                "entity": str(member.entity.in_life(0)),
                "incarnation": member.entity.incarnation or None,
                "parents": [str(parent) for parent in member.parents],
                "addresses": list(member.addresses),
                "host": member.host,
                "process": member.process,
                "interests": sorted([str(interest.entity), interest.topic] for interest in member.interests),
            }
            for member in members
        ],
        "broken": {str(entity): why for entity, why in view.broken.items()},
        "unreadable": look.unreadable,
    }
