"""A consumer in a process of its own, which notes in a file what it does and stops where it is told to, to be killed.

    python -m tests.consume.worker URL TOPIC GROUP NOTES [--guarantee NAME] [--halt PLACE BODY] [--effects TOPIC]

Each handled record is a line ``time partition offset body`` in NOTES.  With ``--halt`` the process hangs there while
handling that record (``before`` handling, ``handled``, or ``effect``: after its effects are in the log and before
the commit), after it wrote ``halted`` to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from dynlog.consumer import Consumer
from dynlog.intake import ConsumerSettings, Guarantee
from dynlog.open import open_log
from dynlog.received import Delivery
from dynlog.record import Record


async def work(options: argparse.Namespace) -> None:
    def note(line: str) -> None:
        with Path(options.notes).open("a") as file:
            file.write(line)

    def halt(place: str, delivery: Delivery) -> None:
        if options.halt == [place, bytes(delivery.record.parts[0]).decode()]:
            print("halted", flush=True)
            time.sleep(3600)  # the whole process, so that no commit follows

    async def handle(delivery: Delivery) -> None:
        text = bytes(delivery.record.parts[0]).decode()
        halt("before", delivery)
        note(f"{time.monotonic()} {delivery.partition} {delivery.offset} {text}\n")
        halt("handled", delivery)
        if options.effects:
            for number in range(2):
                delivery.emit(options.effects, Record(parts=(f"{text}/{number}".encode(),), key=delivery.record.key))
            await delivery.ack()
            halt("effect", delivery)

    settings = ConsumerSettings(guarantee=Guarantee[options.guarantee])
    async with (
        open_log(options.url) as log,
        Consumer.open(log, options.topic, group=options.group, settings=settings) as consumer,
    ):
        print("ready", flush=True)
        await consumer.run(handle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("url", "topic", "group", "notes"):
        parser.add_argument(name)
    parser.add_argument("--guarantee", default="AT_LEAST_ONCE")
    parser.add_argument("--halt", nargs=2, default=None)
    parser.add_argument("--effects", default=None)
    asyncio.run(work(parser.parse_args()))
