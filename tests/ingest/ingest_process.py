"""A process of its own that ingests, so that it can be killed: ``LOG_URL file PATH`` or ``LOG_URL zmq SOURCE_URL``.

It prints ``taken N`` as records become durable, and ends with exit status 0 when the file ends or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from dynlog.adapters.dynamo_json import decode_line
from dynlog.adapters.source_set import VllmSources
from dynlog.adapters.sources import parse_source
from dynlog.ingest import IngestStats, ingest
from dynlog.ingest_lines import line_items
from dynlog.open import open_log

TOPIC = "kv"


def progress(stats: IngestStats) -> None:
    print("taken", stats.records, stats.as_dict()["clears"], flush=True)


async def main(log_url: str, kind: str, source: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_log(log_url) as log:
        await log.create_topic(TOPIC, partitions=2, exist_ok=True)
        if kind == "file":
            items = line_items(source, decode_line)
            await ingest(log, TOPIC, items, stop=stop, progress=progress, max_unacknowledged_bytes=64 << 10)
            return
        async with VllmSources(log, TOPIC, [parse_source(source)]) as engines:
            await ingest(log, TOPIC, engines.items(), stop=stop, progress=progress)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
