"""How plans, outcomes, comparisons and journals look: tables for people, one JSON document for machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dynlog.cli.output import human_bytes, human_time, print_facts, print_json, print_table, say
from dynlog.migrations.nats.contract import Item, Outcome, Refusal
from dynlog.migrations.nats.plan import Plan
from dynlog.migrations.nats.status import ItemStatus
from dynlog.migrations.nats.verify import Verified

MOST_NAMED = 20
"""So many names per item go to stderr; all of them are in the JSON."""


def say_plan(plan: Plan, *, as_json: bool) -> None:
    """The plan on stdout; with ``as_json`` as it is kept."""
    if as_json:
        print_json(plan.model_dump(mode="json"))
        return
    print_facts({"SOURCE": plan.source, "DYNAMO": plan.release, "LOG": plan.log, "OBJECTS": plan.objects})
    print()
    rows = [
        (item.kind, item.source, item.count, human_bytes(item.bytes), item.target or "(not moved)", len(item.refused))
        for item in plan.items
    ]
    print_table(("KIND", "SOURCE", "COUNT", "SIZE", "BECOMES", "UNFIT"), rows, empty="nothing is in JetStream")
    for item in plan.items:
        for note in item.notes:
            print(f"{item.source}: {note}")
        for line in _named(item.source, item.refused):
            print(line)


def say_outcomes(outcomes: Sequence[Outcome], items: Mapping[str, Item], done: str, *, as_json: bool) -> None:
    """What was done, on stdout; what was not, on stderr, too."""
    if as_json:
        print_json([outcome.model_dump(mode="json") for outcome in outcomes])
    else:
        rows = [
            (o.item, _target(items.get(o.item)), o.moved, o.already, human_bytes(o.bytes), len(o.refused))
            for o in outcomes
        ]  # fmt: skip
        print_table(("ITEM", "TARGET", done, "THERE BEFORE", "BYTES", "NOT"), rows, empty="nothing to do")
    for outcome in outcomes:
        for line in _named(outcome.item, outcome.refused):
            say(line)


def say_verified(verified: Sequence[Verified], *, as_json: bool) -> None:
    """What was compared, on stdout; what differs, on stderr, too."""
    if as_json:
        print_json([each.model_dump(mode="json") for each in verified])
    else:
        rows = [
            (
                each.item,
                each.target or "(not moved)",
                _differences(len(each.differences)) if each.differences else "alike",
            )
            for each in verified
        ]
        print_table(("ITEM", "TARGET", "COMPARED"), rows, empty="nothing to compare")
    for each in verified:
        for line in _named(each.item, [Refusal(name=d.name, why=d.what) for d in each.differences]):
            say(line)


def say_status(items: Sequence[ItemStatus], name: str, *, as_json: bool) -> None:
    """The journal, on stdout."""
    if as_json:
        print_json([item.model_dump(mode="json") for item in items])
        return
    rows = [
        (
            item.item, item.target, str(item.stage), item.moved, human_bytes(item.bytes), item.source_seq,
            item.last_seq, len(item.refused), human_time(item.began_ms),
            human_time(item.ended_ms) if item.ended_ms else "-",
        )
        for item in items
    ]  # fmt: skip
    headings = ("ITEM", "TARGET", "STAGE", "LINES", "BYTES", "AT", "OF", "NOT", "BEGAN", "ENDED")
    print_table(headings, rows, empty=f"no migration {name!r} was ever begun here")


def _differences(count: int) -> str:
    return "1 difference" if count == 1 else f"{count} differences"


def _target(item: Item | None) -> str:
    return item.target or "(not moved)" if item is not None else ""


def _named(what: str, refused: Iterable[Refusal]) -> list[str]:
    all = list(refused)
    lines = [f"{what}: {refusal.name}: {refusal.why}" for refusal in all[:MOST_NAMED]]
    if len(all) > MOST_NAMED:
        lines.append(f"{what}: and {len(all) - MOST_NAMED:,} more (--json names them all)")
    return lines
