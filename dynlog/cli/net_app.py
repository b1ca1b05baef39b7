"""``dynlog net``: the network by hand: serve, call, ping, stats, switch."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from dynlog.cli.app import PartialSuccess
from dynlog.cli.options import AsJson, LogUrl, parse_timeout
from dynlog.cli.output import print_json
from dynlog.cli.run import run, serve
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.network.admin import PING, STATS, SWITCH, serve_admin
from dynlog.network.calls import Request
from dynlog.network.joining import BUCKET, join_network
from dynlog.network.locating import WirePolicy
from dynlog.network.manager import DynamoNetworkManager
from dynlog.open import open_log
from dynlog.record import Buffer

app = typer.Typer(help="The network by hand: serve, call, ping, stats, switch.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(help="Who: a name, instance:NAME or collection:NAME.", show_default=False)]
Bucket = Annotated[str, typer.Option("--bucket", help="The bucket of the log in which the network is.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long it may take, as in 10s.")]
Token = Annotated[str | None, typer.Option("--token", envvar="DYNLOG_TOKEN", help="What peers must know to talk.")]
Wire = Annotated[list[str] | None, typer.Option("--wire", help="Wires to try first, as in uds; may be repeated.")]


def parse_entity(text: str) -> DynamoEntityID:
    """``instance:NAME``, ``collection:NAME``, or a name alone for an instance; raises ConfigurationError."""
    return DynamoEntityID.parse(text if ":" in text else f"instance:{text}")


@asynccontextmanager
async def joined(
    log: str, bucket: str, token: str | None, wires: list[str] | None = None, **options: Any
) -> AsyncIterator[DynamoNetworkManager]:
    """A manager that has joined, under a name of its own unless one is given."""
    entity = options.pop("entity", None) or DynamoEntityID.random("dynlog-net")
    async with (
        open_log(log) as opened,
        join_network(
            opened, entity, bucket=bucket, token=token.encode() if token else None,
            policy=WirePolicy(prefer=tuple(wires or ())), **options,
        ) as manager,
    ):  # fmt: skip
        yield manager


@app.command("serve")
def serve_command(
    name: Annotated[str, typer.Argument(help="The instance to be, as in fleet/backend/0.", show_default=False)],
    log: LogUrl,
    listen: Annotated[list[str] | None, typer.Option("--listen", help="Where; may be repeated.")] = None,
    parent: Annotated[list[str] | None, typer.Option("--parent", help="A collection that it belongs to.")] = None,
    bucket: Bucket = BUCKET,
    token: Token = None,
) -> None:
    """Be an instance: answer calls to `echo` (the body comes back) and `words` (each word of it, one by one).

    It also answers `dynlog net ping`, `stats` and `switch`. It goes on until it is interrupted, and finishes what runs.

    - `dynlog net serve fleet/backend/0 --log $URL --listen tcp://127.0.0.1:0 --parent fleet/backend`
    """
    entity = parse_entity(name)
    parents = [DynamoEntityID.collection(text.removeprefix("collection:")) for text in parent or ()]

    async def work(stop: asyncio.Event) -> None:
        async def echo(request: Request) -> Buffer:
            return request.body

        async def words(request: Request) -> AsyncIterator[Buffer]:
            for word in bytes(request.body).split():
                yield word
                await asyncio.sleep(0)

        async with joined(
            log, bucket, token, entity=entity, listen=listen or ["tcp://127.0.0.1:0"], parents=parents
        ) as manager:
            manager.serve("echo", echo)
            manager.serve("words", words)
            serve_admin(manager)
            print(f"{manager.entity} at {' '.join(manager.addresses)}", flush=True)
            ends = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(manager.over.wait())}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            if manager.reason is not None:
                raise manager.reason
            await manager.drain()

    serve(work)


@app.command()
def call(
    target: Target,
    topic: Annotated[str, typer.Argument(help="What to call, as in echo.", show_default=False)],
    log: LogUrl,
    body: Annotated[str, typer.Argument(help="What to send; - reads it from standard input.")] = "",
    stream: Annotated[bool, typer.Option("--stream", help="Print every reply, a line each, as it comes.")] = False,
    timeout: Timeout = "10s",
    bucket: Bucket = BUCKET,
    token: Token = None,
    wire: Wire = None,
) -> None:
    """Call an instance, or every instance of a collection, and print what it replies.

    - `dynlog net call fleet/backend/0 echo 'hello' --log $URL`

    - `dynlog net call fleet/backend/0 words 'one by one' --stream --log $URL`

    - `dynlog net call collection:fleet dynlog.ping x --log $URL`
    """
    seconds, entity = parse_timeout(timeout), parse_entity(target)
    message = sys.stdin.buffer.read() if body == "-" else body.encode()

    async def work() -> None:
        async with joined(log, bucket, token, wire) as manager:
            if entity.is_collection:
                await ask_all(manager, entity, topic, message, seconds)
            elif stream:
                async with manager.stream(entity, topic, message, deadline=seconds) as replies:
                    async for reply in replies:
                        write(reply)
            else:
                write(await manager.request(entity, topic, message, deadline=seconds))

    run(work())


async def ask_all(
    manager: DynamoNetworkManager, collection: DynamoEntityID, topic: str, message: bytes, seconds: float
) -> None:
    """Prints a line for each instance; raises PartialSuccess naming who is missing."""
    gathered = await manager.broadcast(collection, topic, message, deadline=seconds)
    for entity, reply in sorted(gathered.replies.items()):
        print(f"{entity}\t{bytes(reply).decode(errors='replace')}")
    if gathered.missing:
        reasons = "; ".join(f"{entity}: {error}" for entity, error in sorted(gathered.missing.items()))
        raise PartialSuccess(f"{len(gathered.missing)} of {collection} did not answer: {reasons}")
    if not gathered.replies:
        raise ConfigurationError(f"{collection} has no instances (registry offset {gathered.view_offset})")


@app.command()
def ping(
    target: Target,
    log: LogUrl,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="How many times.")] = 5,
    timeout: Timeout = "10s",
    bucket: Bucket = BUCKET,
    token: Token = None,
    wire: Wire = None,
    as_json: AsJson = False,
) -> None:
    """Measure how long a call takes, there and back, and over which wire.

    With `--json`: `{"peer", "wire", "count", "min_ms", "median_ms", "max_ms"}`.
    """
    seconds, entity = parse_timeout(timeout), parse_entity(target)

    async def work() -> None:
        async with joined(log, bucket, token, wire) as manager:
            times = []
            for _ in range(count):
                begun = time.perf_counter()
                await manager.request(entity, PING, b"ping", deadline=seconds)
                times.append((time.perf_counter() - begun) * 1000)
            times.sort()
            (session,) = manager.stats()["sessions"]
            found = {
                "peer": str(entity), "wire": session["wire"], "count": count, "min_ms": round(times[0], 3),
                "median_ms": round(times[count // 2], 3), "max_ms": round(times[-1], 3),
            }  # fmt: skip
            if as_json:
                print_json(found)
            else:
                print(
                    f"{entity} by {found['wire']}: {count} calls, {found['min_ms']} ms at best, "
                    f"{found['median_ms']} ms in the middle, {found['max_ms']} ms at worst"
                )

    run(work())


@app.command()
def stats(
    target: Target,
    log: LogUrl,
    timeout: Timeout = "10s",
    bucket: Bucket = BUCKET,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show what an instance, or each of a collection, serves and whom it talks to.

    With `--json` an array of `{"entity", "addresses", "services", "sessions", "subscriptions", ...}`.
    """
    seconds, entity = parse_timeout(timeout), parse_entity(target)

    async def work() -> None:
        async with joined(log, bucket, token) as manager:
            if entity.is_collection:
                gathered = await manager.broadcast(entity, STATS, deadline=seconds)
                found, missing = [json.loads(bytes(reply)) for reply in gathered.replies.values()], gathered.missing
            else:
                found, missing = [json.loads(bytes(await manager.request(entity, STATS, deadline=seconds)))], {}
            if as_json:
                print_json(found)
            else:
                for each in found:
                    show(each)
            if missing:
                raise PartialSuccess(
                    f"{len(missing)} did not answer: " + "; ".join(f"{who}: {why}" for who, why in missing.items())
                )

    run(work())


def show(found: dict[str, Any]) -> None:
    """Prints one instance's stats."""
    print(f"{found['entity']}  {' '.join(found['addresses'])}")
    for service in found["services"]:
        print(
            f"  serves {service['topic']}: {service['served']} served, {service['failed']} failed, "
            f"{service['refused']} refused, {service['running']} running"
        )
    for session in found["sessions"]:
        print(
            f"  talks to {session['peer']} by {session['wire']}: {session['records_sent']} records out, "
            f"{session['records_received']} in, {session['messages_per_write']} a write, "
            f"{session['streams']} calls open"
        )


@app.command()
def switch(
    target: Target,
    peer: Annotated[str, typer.Argument(help="Whose session with it is meant.", show_default=False)],
    to: Annotated[str, typer.Argument(help="A wire (uds) or an address (tcp://host:port).", show_default=False)],
    log: LogUrl,
    timeout: Timeout = "10s",
    bucket: Bucket = BUCKET,
    token: Token = None,
) -> None:
    """Change the wire of a running instance: its session with the peer goes by another one from now on.

    Nothing that is open notices: no call, no stream, no event is lost, doubled or reordered.

    - `dynlog net switch fleet/frontend/0 fleet/backend/0 uds --log $URL`
    """
    seconds, entity, other = parse_timeout(timeout), parse_entity(target), parse_entity(peer)

    async def work() -> None:
        async with joined(log, bucket, token) as manager:
            asked = json.dumps({"peer": str(other), "wire": to}).encode()
            address = bytes(await manager.request(entity, SWITCH, asked, deadline=seconds)).decode()
            print(f"{entity} talks to {other} by {address}")

    run(work())


def write(reply: Buffer) -> None:
    """A reply on standard output, with a line's end."""
    sys.stdout.buffer.write(bytes(reply) + b"\n")
    sys.stdout.buffer.flush()
