"""An instance in a process of its own: registers, says so, and says when and why it must stop.

python -m tests.discovery.worker URL TTL ADDRESS
"""

from __future__ import annotations

import asyncio
import sys

from dynlog.discovery.directory import BUCKET, Directory
from dynlog.discovery.models import Entity
from dynlog.kv import Leases, open_kv
from dynlog.open import open_log
from tests.discovery.backend import name


async def main(url: str, ttl_s: float, address: str) -> None:
    async with open_log(url) as log, open_kv(log, compaction=None) as kv:
        directory = Directory(await kv.bucket(BUCKET))
        async with Leases(directory.bucket) as leases:
            lease = await leases.grant(ttl_s)
            async with directory.register(Entity.of(name(), {"tcp": address}), lease) as registration:
                print("registered", lease.token, flush=True)
                await registration.over.wait()
                print("over", type(registration.reason).__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
