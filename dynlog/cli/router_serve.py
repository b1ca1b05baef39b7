"""``dynlog router serve``: a router that follows its topic and answers over HTTP until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import NamedTuple

from dynlog.cli.log_open import open_existing
from dynlog.cli.output import print_json
from dynlog.cli.run import until_stopped
from dynlog.errors import DeadlineExceeded, MissingDependency
from dynlog.heap import settle_heap
from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.router.state import RouterState
from dynlog.snapshots import SnapshotPolicy

logger = logging.getLogger(__name__)


class ServeOptions(NamedTuple):
    """What the command line says."""

    listen: str
    max_staleness_s: float
    max_body: int
    snapshot_every_s: float
    snapshot_records: int
    as_json: bool


async def serve_router(
    log_url: str, topic: str, objects_url: str | None, options: ServeOptions, stop: asyncio.Event
) -> None:
    """Serves until ``stop``; raises what keeps the state from being rebuilt if that cannot pass by itself."""
    try:
        from dynlog.router.http import HttpSettings, RebuildProgress, create_app
        from dynlog.router.http_server import listen, serving, url_of
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dynlog"):
            raise
        raise MissingDependency(f"serving needs the package {error.name!r}: pip install 'dynlog[http]'") from None
    progress = RebuildProgress()
    policy = SnapshotPolicy(every_records=options.snapshot_records, every_s=options.snapshot_every_s)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(listen(options.listen))
        url = url_of(listening)
        log = await stack.enter_async_context(open_existing(log_url))
        objects: ObjectStore | None = None
        if objects_url is not None:
            objects = await stack.enter_async_context(open_objects(objects_url))
        router = await stack.enter_async_context(
            RouterState.open(log, topic, objects=objects, policy=policy, progress=progress)
        )
        label = (await log.topic(topic)).labels.get("block_size", "")
        settings = HttpSettings(
            max_staleness_s=options.max_staleness_s,
            max_body=options.max_body,
            block_size=int(label) if label.isdecimal() else None,
        )
        app = create_app(router, settings, progress)
        app.openapi()
        settle_heap()
        await stack.enter_async_context(serving(app, listening))
        if options.as_json:
            print_json({"listening": url})
        else:
            print(f"listening at {url}", flush=True)
        await until_stopped(_watch(router), stop)
        logger.info("stopping")


async def _watch(router: RouterState) -> None:
    """Says when the router is ready, then waits for ever; raises what keeps it from ever being."""
    while True:
        try:
            await router.ready()
        except DeadlineExceeded as error:
            logger.warning("not ready yet: %s", error)
            continue
        break
    report = router.status().rebuild
    assert report is not None
    logger.info(
        "ready: %d records in %.3f s from %s, %d blocks held",
        report.records, report.seconds, report.started_from, router.index.blocks_held,
    )  # fmt: skip
    await asyncio.Event().wait()
