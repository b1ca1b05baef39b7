"""A process that works on a bucket of any log until its stdin ends, and says a dot for every operation answered.

python -m tests.kv.linearizability.client URL BUCKET HISTORY NAME SEED TASKS
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from dynlog.kv import open_kv
from dynlog.open import open_log
from tests.kv.linearizability.history import Recorder
from tests.kv.linearizability.working import Client


async def main(url: str, bucket_name: str, history: Path, name: str, seed: int, tasks: int) -> None:
    """Works until stdin ends."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: ended.set() if not os.read(0, 1) else None)
    with Recorder(history) as recorder:
        async with open_log(url) as log, open_kv(log) as kv:
            bucket = await kv.bucket(bucket_name)
            async with asyncio.TaskGroup() as group:
                for number in range(tasks):
                    client = Client(bucket, recorder, f"{name}.{number}", random.Random(f"{seed}.{number}"))
                    group.create_task(client.work(lambda: not ended.is_set(), _dot))
    asyncio.get_running_loop().remove_reader(0)


def _dot() -> None:
    os.write(1, b".")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6])))
