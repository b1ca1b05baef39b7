"""A process that contends for a lock, writes while it holds it, and tells what happens as lines of JSON.

python -m tests.kv.leases.contender URL BUCKET NAME TTL

It ends when its stdin does.  Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

from dynlog.errors import DynlogError, LeaseLost
from dynlog.kv import Bucket, HeldLease, Leases, Lock, open_kv
from dynlog.open import open_log

LOCK = "resource"
STATE = "state"
PAUSE_S = 0.02


def tell(event: str, **facts: Any) -> None:
    """One line."""
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **facts}).encode() + b"\n")


async def follow(bucket: Bucket) -> None:
    """Tells of every lease that ends, once this process knows."""
    known: set[str] = set()
    while True:
        seen = bucket.follower.changes.count
        lives = set(bucket.leases)
        for lease in known - lives:
            tell("ended", lease=lease)
        known = lives
        await bucket.follower.changes.beyond(seen)


async def contend(bucket: Bucket, leases: Leases, name: str, ttl_s: float) -> None:
    """Takes the lock again and again, and keeps it as long as it may."""
    lease: HeldLease | None = None
    while True:
        try:
            if lease is None or not lease.held:
                lease = await leases.grant(ttl_s, name, timeout=5.0)
                tell("granted", lease=lease.id)
            lock = Lock(lease, LOCK)
            token = await lock.acquire()
            await hold(bucket, lock, name, token)
            if not lease.held:
                # Before the lock is released: the lease may live on in the log, and then nobody else is first in line.
                await write_late(bucket, lease, token)
            await lock.release()
        except DynlogError as error:
            tell("error", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(PAUSE_S)


async def hold(bucket: Bucket, lock: Lock, name: str, token: int) -> None:
    """Writes until it has to stop; tells when it last believed to hold the lock."""
    held_at = acquired_at = time.monotonic()
    tell("acquired", token=token, lease=lock.lease.id, held_at=acquired_at)
    number = 0
    while True:
        looked_at = time.monotonic()
        if not lock.held:
            break
        held_at = looked_at
        number += 1
        with suppress(DynlogError):
            await bucket.put(STATE, f"{token} {name} {number}".encode(), lease=lock.lease.id, timeout=1.0)
        await asyncio.sleep(PAUSE_S)
    tell("stopped", token=token, lease=lock.lease.id, held_at=held_at, writes=number)


async def write_late(bucket: Bucket, lease: HeldLease, token: int) -> None:
    """What comes of a write after the end, once that can be known."""
    while True:
        try:
            await bucket.put(STATE, f"{token} late".encode(), lease=lease.id, timeout=2.0)
        except LeaseLost:
            tell("late", token=token, won=False)
            return
        except DynlogError:
            await asyncio.sleep(PAUSE_S)
        else:
            tell("late", token=token, won=True)
            return


async def main(url: str, bucket_name: str, name: str, ttl_s: float) -> None:
    """Works until stdin ends."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: ended.set() if not os.read(0, 1) else None)
    async with open_log(url) as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.bucket(bucket_name)
        async with Leases(bucket) as leases:
            tasks = [
                asyncio.create_task(follow(bucket)),
                asyncio.create_task(contend(bucket, leases, name, ttl_s)),
            ]
            await asyncio.wait([*tasks, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            for failed in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(failed, Exception):
                    raise failed
    asyncio.get_running_loop().remove_reader(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
