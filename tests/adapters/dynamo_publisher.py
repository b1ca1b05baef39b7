"""A process of its own: ai-dynamo-runtime's KvEventPublisher on an event plane (zmq or nats), driven by lines on stdin.

It runs with file discovery (``DYN_FILE_KV``), so neither etcd nor NATS is needed; the address at which it publishes
stands in that folder.
"""

from __future__ import annotations

import asyncio
import sys

BLOCK_SIZE = 16


async def main() -> None:
    from dynamo.llm import KvEventPublisher
    from dynamo.runtime import DistributedRuntime

    loop = asyncio.get_running_loop()
    runtime = DistributedRuntime(loop, "file", "tcp", event_plane=sys.argv[1] if len(sys.argv) > 1 else "zmq")
    publisher = KvEventPublisher(
        runtime.endpoint("demo.backend.generate"), worker_id=4242, kv_block_size=BLOCK_SIZE, dp_rank=1
    )
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *numbers = line.split()
        blocks = [int(number) for number in numbers]
        if command == "store":
            tokens = list(range(BLOCK_SIZE * len(blocks)))
            publisher.publish_stored(tokens, [BLOCK_SIZE] * len(blocks), blocks)
        else:
            publisher.publish_removed(blocks)
        print("done", flush=True)
    publisher.shutdown()
    runtime.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
