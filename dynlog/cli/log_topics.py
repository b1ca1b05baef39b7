"""``dynlog log create``, ``topics`` and ``delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from dynlog.cli.asking import ask, check_may_ask
from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, LogUrl, parse_duration, parse_pairs, parse_size
from dynlog.cli.output import human_bytes, human_seconds, human_time, print_json, print_table
from dynlog.cli.run import run
from dynlog.open import open_log
from dynlog.topics import PartitionState, Retention, Topic


def create(
    topic: Annotated[str, typer.Argument(help="A-Z a-z 0-9 . _ : -, at most 249.", show_default=False)],
    log: LogUrl,
    partitions: Annotated[int, typer.Option(help="How many; fixed for ever.")] = 1,
    retention_age: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="Keep records for so long, as in 1h or 7d; else for ever."
        ),
    ] = None,
    retention_bytes: Annotated[
        int | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="Keep about so much, as in 10GiB; else everything."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label; may be repeated.")] = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="A topic of that name and partition count is fine as it is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a topic, and the log if there is none yet.

    - `dynlog log create orders --partitions 4 --log sqlite:///tmp/events.db`

    - `dynlog log create metrics --retention-age 7d --retention-bytes 10GiB --label owner=fleet --log $URL`
    """
    retention = Retention(max_age_s=retention_age, max_bytes=retention_bytes)
    labels = parse_pairs("label", label or [])

    async def work() -> Topic:
        async with open_log(log) as opened:
            return await opened.create_topic(
                topic, partitions=partitions, retention=retention, labels=labels, exist_ok=exist_ok
            )

    made = run(work())
    if as_json:
        print_json(topic_json(made))
    else:
        print(f"topic {made.name} with {made.partitions} partition{'s' if made.partitions > 1 else ''}")


def topics(log: LogUrl, as_json: AsJson = False) -> None:
    """List the topics.

    With `--json`: a list of `{"name", "partitions", "incarnation", "created", "retention", "labels", "records",
    "bytes"}`. `records` counts offsets from the earliest to the end.

    - `dynlog log topics --log sqlite:///tmp/events.db`
    """

    async def work() -> list[tuple[Topic, list[PartitionState]]]:
        async with open_existing(log) as opened:
            return [(topic, await opened.partitions(topic.name)) for topic in await opened.topics()]

    found = run(work())
    if as_json:
        print_json([topic_json(topic) | totals(states) for topic, states in found])
        return
    print_topics(found)


def delete(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    log: LogUrl,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a topic with its records, holders and commits. It asks on a terminal and needs `--yes` elsewhere.

    - `dynlog log delete orders --yes --log sqlite:///tmp/events.db`
    """
    check_may_ask(yes, f"deleting topic {topic!r}")

    async def look() -> int:
        async with open_existing(log) as opened:
            return int(totals(await opened.partitions(topic))["records"])

    async def work() -> None:
        async with open_existing(log) as opened:
            await opened.delete_topic(topic)

    if not yes:
        ask(f"Delete topic {topic} with {run(look()):,} records for ever?", "nothing was deleted")
    run(work())
    if as_json:
        print_json({"deleted": topic})
    else:
        print(f"topic {topic} deleted")


def topic_json(topic: Topic) -> dict[str, object]:
    """A topic as it was created."""
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "incarnation": topic.incarnation,
        "created": human_time(topic.created_ms) if topic.created_ms else None,
        "retention": {"max_age_s": topic.retention.max_age_s, "max_bytes": topic.retention.max_bytes},
        "labels": dict(topic.labels),
    }


def totals(states: list[PartitionState]) -> dict[str, int]:
    """Records (holes counted) and bytes of all partitions."""
    return {"records": sum(s.end - s.earliest for s in states), "bytes": sum(s.bytes for s in states)}


def print_topics(found: list[tuple[Topic, list[PartitionState]]]) -> None:
    """The table of topics."""
    rows = []
    for topic, states in found:
        sums = totals(states)
        labels = " ".join(f"{name}={value}" for name, value in topic.labels.items())
        rows.append(
            (topic.name, topic.partitions, sums["records"], human_bytes(sums["bytes"]), kept(topic.retention), labels)
        )
    print_table(
        ("TOPIC", "PARTITIONS", "RECORDS", "SIZE", "RETENTION", "LABELS"), rows,
        empty="no topics; create one with: dynlog log create TOPIC",
    )  # fmt: skip


def kept(retention: Retention) -> str:
    """Retention in words."""
    words = [
        human_seconds(retention.max_age_s) if retention.max_age_s is not None else "",
        human_bytes(retention.max_bytes) if retention.max_bytes is not None else "",
    ]
    return ", ".join(filter(None, words)) or "everything"
