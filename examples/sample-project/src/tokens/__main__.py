"""``python -m tokens URL``: prints what each worker generated, by the log at that URL."""

from __future__ import annotations

import asyncio
import sys

from dynlog import LiveProjection, open_log
from tokens.counts import TOPIC, TokenCounts


async def main(url: str) -> None:
    async with open_log(url) as log, LiveProjection.open(log, TOPIC, TokenCounts, "token-counts") as live:
        await live.ready()
        for worker, tokens in sorted(live.state.by_worker.items()):
            print(worker, tokens)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
