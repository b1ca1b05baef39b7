"""``dynlog entities`` shows who is there; ``dynlog discovery import`` takes over what a fleet still keeps elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from dynlog.adapters.etcd import EtcdImage, read_etcd
from dynlog.adapters.etcd_http import etcd_place
from dynlog.cli.app import PartialSuccess, one_line
from dynlog.cli.kv_show import open_bucket, open_store
from dynlog.cli.options import AsJson, LogUrl, parse_timeout
from dynlog.cli.output import print_facts, print_json
from dynlog.cli.run import run
from dynlog.discovery.directory import BUCKET, Directory, Listing
from dynlog.discovery.importing import ROOTS, ForeignKey, Imported, import_keys
from dynlog.discovery.names import prefix_of
from dynlog.discovery.tree import listing_json, tree_lines
from dynlog.errors import BucketNotFound
from dynlog.timing import Deadline

BucketName = Annotated[str, typer.Option("--bucket", help="The bucket in which entities are.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long it may take in all, as in 30s.")]


def entities(
    log: LogUrl,
    namespace: Annotated[str | None, typer.Option(help="Only entities of this namespace.")] = None,
    component: Annotated[str | None, typer.Option(help="Only of this component of it.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint of that.")] = None,
    bucket: BucketName = BUCKET,
    timeout: Timeout = "30s",
    as_json: AsJson = False,
) -> None:
    """Show who is there: namespaces, components, endpoints, instances, and the models that they serve.

    An instance's id is shown in hexadecimal, as in keys, and in decimal, as in JSON; *foreign* is what dynlog did not
    register.

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


app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def discovery() -> None:
    """Entities register themselves under leases, in a key-value bucket; `dynlog entities` shows them.

    - `dynlog discovery import etcd http://127.0.0.1:2379 --log $URL`
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
    bucket: BucketName = BUCKET,
    timeout: Timeout = "60s",
    as_json: AsJson = False,
) -> None:
    """Take over the instances and model cards that a fleet of Dynamo's keeps in etcd; nothing is written there.

    Everything is read at one revision.  Values are kept byte for byte, under the same keys, without a lease, and marked
    as foreign; run it again to have what changed meanwhile.  What was registered here is never written over.

    User, password and TLS: `https://user:password@host:2379?tls_ca=FILE`, or Dynamo's `ETCD_AUTH_...` variables.
    Exit status 3 if a key could not be taken over.

    - `dynlog discovery import etcd http://127.0.0.1:2379 --log sqlite:///tmp/fleet.db`
    """
    seconds = parse_timeout(timeout)
    place = etcd_place(url)
    image, done = run(_import(system, url, log, bucket, seconds))
    facts: dict[str, Any] = {
        "source": place.shown, "source_revision": image.revision, "added": done.added, "changed": done.changed,
        "unchanged": done.unchanged, "removed": done.removed, "leased": done.leased,
    }  # fmt: skip
    if as_json:
        print_json({**facts, "kept": done.kept, "refused": done.refused})
    else:
        print_facts({name.replace("_", " "): value for name, value in facts.items()})
        for what, keys in (("kept", done.kept), ("refused", done.refused)):
            for key, why in keys.items():
                print(one_line(f"{what}  {key}: {why}"))
    if done.refused:
        key, why = next(iter(done.refused.items()))
        raise PartialSuccess(f"{len(done.refused)} keys were not taken over; the first is {key}: {why}")


async def _import(system: System, url: str, log: str, bucket: str, seconds: float) -> tuple[EtcdImage, Imported]:
    place, deadline = etcd_place(url), Deadline(seconds)
    image = await read_etcd(place, [root.encode() for root in ROOTS], timeout=seconds)
    keys = [
        ForeignKey(entry.key, entry.value, entry.mod_revision, entry.lease, image.leases.get(entry.lease))
        for entry in image.entries
    ]
    async with open_store(log, None, seconds, create=True) as kv:
        opened = await kv.create(bucket, exist_ok=True, timeout=deadline.remaining)
        return image, await import_keys(opened, place.shown, keys, timeout=deadline.remaining)
