"""(f) How soon a follower in another process sees a durable append, and what it costs while nothing comes."""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import dynlog
from benchmarks.report import Row

IDLE_S = 5.0


async def follower(url: str) -> None:
    """Child: prints the latency of every record from its append's call to here, then its idle CPU."""
    async with dynlog.open_log(url) as log, await dynlog.Reader.open(log, "t", "end") as reader:
        print("ready", flush=True)
        latencies: list[float] = []
        while True:
            batch = await reader.next(wait=30.0)
            assert batch is not None
            now = time.time_ns()
            bodies = [bytes(body[0]) for body in batch.bodies]
            latencies += [(now - int(body)) / 1e6 for body in bodies if body != b"stop"]
            if b"stop" in bodies:
                break
        before = resource.getrusage(resource.RUSAGE_SELF)
        assert await reader.next(wait=IDLE_S) is None
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({"latencies": latencies, "idle": cpu / IDLE_S}), flush=True)


async def publish(url: str, count: int) -> dict[str, list[float] | float]:
    async with dynlog.open_log(url) as log:
        await log.create_topic("t")
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.follow", url, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        await child.stdout.readline()
        appends = []
        for _ in range(count):
            begun = time.perf_counter()
            await log.append("t", 0, [dynlog.Record(parts=(b"%d" % time.time_ns(),))])
            appends.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0.002)
        await log.append("t", 0, [dynlog.Record(parts=(b"stop",))])
        result: dict[str, list[float] | float] = json.loads(await child.stdout.readline())
        await child.wait()
        return {**result, "appends": appends}


def run(quick: bool) -> list[Row]:
    """Rows: latency beside the append's own (the fsync is in both), and idle CPU."""
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        found = asyncio.run(publish(f"sqlite://{folder}/events.db", 200 if quick else 2000))
    latencies, appends, idle = found["latencies"], found["appends"], found["idle"]
    assert isinstance(latencies, list)
    assert isinstance(appends, list)
    assert isinstance(idle, float)
    rows = []
    for name, share in (("p50", 50), ("p99", 99)):
        ours = statistics.quantiles(latencies, n=100)[share - 1]
        peer = statistics.quantiles(appends, n=100)[share - 1]
        note = "from before the append to seen in another process; peer: the append's own acknowledgement"
        rows.append(Row(f"follow {name}", ours, "ms", peer=peer, note=note))
    rows.append(Row("idle follower", idle * 100, "% of a core", required="<= 1", note=f"over {IDLE_S:g} s"))
    return rows


if __name__ == "__main__":
    asyncio.run(follower(sys.argv[1]))
