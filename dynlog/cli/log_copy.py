"""``dynlog log copy``: a log into another, whatever engines they lie in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, check_log_url
from dynlog.cli.output import print_json, print_table, progress
from dynlog.cli.run import run
from dynlog.copying import Copied, copy_groups, copy_topic, topics_to_copy, verify_copy
from dynlog.open import open_log


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", callback=check_log_url, help="A log's URL.", show_default=False)
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", callback=check_log_url, help="A log's URL.", show_default=False)
    ],
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; may be repeated.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read both afterwards and compare record by record.")
    ] = False,
    groups: Annotated[bool, typer.Option("--groups/--no-groups", help="Let consumer groups go on in the copy.")] = True,
    as_json: AsJson = False,
) -> None:
    """Copy topics, records and group positions into another log, of any engine: how you outgrow SQLite.

    Killed and run again it goes on where it stopped, with no record twice; run later it adds what is new. Partitions,
    order, keys, headers, bodies and producers' times stay; where a record lay and when the log took it is in its header
    `dynlog-copied-from` (source/offset/milliseconds). Producers' marks stay where they can. Groups go on at the
    record at which they stood, and never back. Nothing is ever copied into a topic that holds something else.

    The way to move without losing anything: copy while all runs; stop the producers, then the consumers; copy again (it
    is short); start them with the new URL.

    With `--json`: a list of `{"topic", "copied", "already", "repeats", "remarked", "verified", "groups"}`.

    - `dynlog log copy sqlite:///tmp/events.db redis://localhost/0 --verify`

    - `dynlog log copy sqlite:///a.db sqlite:///b.db --topic orders --topic audit`
    """

    async def work() -> list[Copied]:
        done: list[Copied] = []
        async with open_existing(source) as old, open_log(target) as new:
            for one in await topics_to_copy(old, topic or []):
                total = sum(s.end - s.earliest for s in await old.partitions(one.name))
                with progress(f"copying {one.name}", total) as told:
                    outcome = await copy_topic(old, new, one, told)
                if groups:
                    outcome.groups = await copy_groups(old, new, one)
                if verify:
                    outcome.verified = await verify_copy(old, new, one)
                done.append(outcome)
        return done

    outcomes = run(work())
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
        return
    rows = [(o.topic, o.copied, o.already, o.verified if verify else "-", " ".join(o.groups)) for o in outcomes]
    print_table(("TOPIC", "COPIED", "THERE BEFORE", "VERIFIED", "GROUPS"), rows, empty="no topics")
