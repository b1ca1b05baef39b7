"""One apply (or rollback) of a migration at a time: whoever comes second is refused and told who is at it.

The lock is a key of bucket ``migrations`` that lives with a lease of ten seconds.  A holder that was killed on this
machine is recognised as dead at once; one elsewhere is waited for until its lease would have ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dynlog.errors import DynlogError, KeyExists, LeaseLost
from dynlog.kv import Bucket, HeldLease, Leases, Op, open_kv
from dynlog.kv.records import Revoke
from dynlog.kv.watch import Changed, Present, Ready
from dynlog.log import Log

BUCKET = "migrations"
TTL_S = 10.0
T = TypeVar("T")
MOST_TRIES = 5


@asynccontextmanager
async def only_one(log: Log, migration: str, *, ttl_s: float = TTL_S) -> AsyncIterator[HeldLease]:
    """Holds the migration for the length of the block; whoever works in it stops once ``lease.lost`` is set.

    Raises KeyExists, naming the holder, if somebody else has it; that takes up to ``ttl_s`` if the holder is elsewhere.
    """
    async with open_kv(log) as kv:
        bucket = await kv.create(BUCKET, exist_ok=True)
        async with Leases(bucket) as leases:
            lease = await leases.grant(ttl_s, _ourselves())
            await _take(bucket, migration, lease, ttl_s)
            try:
                yield lease
            finally:
                with suppress(DynlogError):  # else it ends with the lease
                    await bucket.delete(migration, timeout=ttl_s / 2)


async def while_held(lease: HeldLease, work: asyncio.Task[T]) -> T:
    """The work's result; once the lease is lost the work is cancelled and LeaseLost raised."""
    lost = asyncio.create_task(lease.lost.wait())
    try:
        await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        lease.check()
        raise LeaseLost("the migration's lease has ended", bucket=BUCKET, lease=lease.id)
    finally:
        for task in (work, lost):
            task.cancel()
        await asyncio.gather(work, lost, return_exceptions=True)


async def _take(bucket: Bucket, migration: str, lease: HeldLease, ttl_s: float) -> None:
    for _ in range(MOST_TRIES):
        try:
            await bucket.create(migration, _ourselves().encode(), lease=lease.id)
            return
        except KeyExists as error:
            await bucket.barrier()
            entry = await bucket.get(migration)
            if entry is None:
                continue
            holder = entry.value.decode()
            if entry.lease and _is_dead(holder):
                await bucket.say(Revoke(entry.lease))
            elif _is_alive(holder) or not await _goes(bucket, migration, 1.5 * ttl_s):
                raise KeyExists(
                    f"{_shown(holder)} is at this migration: wait until it is done, or stop it; nothing was changed",
                    bucket=BUCKET, key=migration, revision=error.revision,
                ) from None  # fmt: skip
    raise KeyExists(
        "others take this migration again and again", bucket=BUCKET, key=migration, revision=bucket.revision
    )


async def _goes(bucket: Bucket, key: str, within_s: float) -> bool:
    """Whether the key goes away in that time."""
    there = False
    try:
        async with asyncio.timeout(within_s), bucket.watch(key=key) as watch:
            async for event in watch:
                match event:
                    case Changed(entry) if entry.op is not Op.PUT:
                        return True
                    case Present() | Changed():
                        there = True
                    case Ready() if not there:
                        return True
    except TimeoutError:
        return False
    return True


# Who is at it, and whether that process is still there: said so that only the same machine and the same process table
# can tell, and a process number that was given to another process since is not taken for the holder.


def _ourselves() -> str:
    return json.dumps({"host": socket.gethostname(), "table": _table(), "pid": os.getpid(), "began": _began("self")})


def _table() -> str:
    """Names this machine's present boot and the process table within it; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int | str) -> str:
    """When the process began, in ticks since the boot; empty if there is none, or only what its parent will collect."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in "ZX" else facts[19]


def _said(holder: str) -> dict[str, object]:
    try:
        said = json.loads(holder)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_here(said: dict[str, object]) -> bool:
    return bool(_table()) and said.get("table") == _table()


def _is_dead(holder: str) -> bool:
    said = _said(holder)
    return _is_here(said) and _began(str(said.get("pid"))) != said.get("began")


def _is_alive(holder: str) -> bool:
    said = _said(holder)
    return _is_here(said) and _began(str(said.get("pid"))) == said.get("began")


def _shown(holder: str) -> str:
    said = _said(holder)
    return f"process {said['pid']} on {said['host']}" if {"pid", "host"} <= said.keys() else "somebody else"
