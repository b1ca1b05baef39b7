"""A writer that is made to be killed: it sends numbered records and reports each one once it is acknowledged.

Run as ``python -m tests.crash.writer URL NAME SEED FIRST...``: FIRST is, per partition, the number that it begins with
(everything below was acknowledged to a former life of it).  Each report is one line, ``partition number offset ...``,
written in one piece below PIPE_BUF, so that a kill leaves no half of it.  A record's mark comes from its source (its
name and number), so what a killed writer had sent is sent again under the same mark.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from dynlog.open import open_log
from dynlog.producer import Producer
from dynlog.record import Mark, Record

TOPIC = "crash"
AT_ONCE = 8
"""Records of a partition that are submitted before the first of them is awaited."""
PAUSE_S = 0.004
"""At most this long between two bursts: it keeps the log small, and a kill still mostly meets an append under way."""


def body_of(name: str, partition: int, number: int) -> bytes:
    """The body says who wrote it, and its length differs, so that a mix-up shows."""
    return f"{name} {partition} {number} ".encode() + b"." * (number * 37 % 300)


async def write(producer: Producer, name: str, partition: int, first: int, choose: random.Random) -> None:
    """Sends in bursts for ever; records of a partition are submitted in the order of their numbers."""
    number = first
    while True:
        burst = choose.randint(1, AT_ONCE)
        numbers = range(number, number + burst)
        tickets = [
            await producer.submit(
                Record(parts=(body_of(name, partition, n),), mark=Mark(name, 1, n)), partition=partition
            )
            for n in numbers
        ]
        for n, ticket in zip(numbers, tickets, strict=True):
            stored = await ticket
            os.write(1, b"%d %d %d\n" % (partition, n, stored.offset))
        number += burst
        await asyncio.sleep(choose.random() * PAUSE_S)


async def main(url: str, name: str, seed: str, firsts: list[int]) -> None:
    async with open_log(url) as log, Producer(log, TOPIC) as producer, asyncio.TaskGroup() as group:
        for partition, first in enumerate(firsts):
            choose = random.Random(f"{seed}/{name}/{partition}/{first}")
            group.create_task(write(producer, name, partition, first, choose))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], [int(first) for first in sys.argv[4:]]))
