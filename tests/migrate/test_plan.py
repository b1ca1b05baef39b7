"""A plan names everything that there is, changes nothing, and says of each thing that does not fit why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nats.js.api import StreamConfig

from dynlog.errors import ConfigurationError
from dynlog.migrations.nats.contract import Choices, Item
from dynlog.migrations.nats.plan import without_collisions
from tests.migrate.migrating import Migrating, bucket, put
from tests.nats_source.source import Writer, everything
from tests.nats_source.test_objects import rewrite

EVENTS = "namespace-a-component-{}-kv-events"


async def furnished(writer: Writer) -> None:
    """Something of each kind."""
    weights, model = await bucket(writer, "weights"), await bucket(writer, "llama")
    await put(weights, "a", b"12345")
    await put(weights, "gone", b"1")
    await weights.delete("gone")
    await rewrite(writer, "weights", "dangling", options={"link": {"bucket": "weights", "name": "nowhere"}})
    await put(model, "config.json", b"{}")
    await (await writer.js.create_key_value(bucket="settings")).put("k", b"v")
    await writer.stream("orders")
    await writer.js.publish("orders.s", b"{}")
    for name in "xy":
        await writer.js.add_stream(StreamConfig(name=EVENTS.format(name), subjects=[f"{EVENTS.format(name)}.*"]))


async def test_a_plan_names_every_bucket_and_stream_and_changes_nothing(migrating: Migrating, writer: Writer) -> None:
    await furnished(writer)
    before = await everything(writer)
    plan = await migrating.plan()
    assert {(item.kind, item.source, item.target, item.count) for item in plan.items} == {
        ("model", "llama", "models/llama/", 1),
        ("objects", "weights", "nats/weights/", 2),
        ("kv", "settings", "settings", 1),
        ("streams", "orders", "orders", 1),
        ("router", EVENTS.format("x"), EVENTS.format("x"), 0),
        ("router", EVENTS.format("y"), EVENTS.format("y"), 0),
    }
    weights = next(item for item in plan.items if item.source == "weights")
    assert [refusal.name for refusal in weights.refused] == ["dangling"]
    assert "1 deleted" in weights.notes
    assert await everything(writer) == before
    assert [topic.name for topic in await migrating.log.topics()] == []
    assert await migrating.keys() == []


async def test_only_and_exclude_choose_by_name_and_by_pattern(migrating: Migrating, writer: Writer) -> None:
    await furnished(writer)

    async def chosen(**names: list[str]) -> set[str]:
        return {item.source for item in (await migrating.plan(**names)).items}

    assert await chosen(only=["weights"]) == {"weights"}
    assert await chosen(only=["router:*"]) == {EVENTS.format("x"), EVENTS.format("y")}
    assert await chosen(exclude=["namespace-*", "orders"]) == {"weights", "llama", "settings"}
    assert await chosen(only=["o*", "w*"], exclude=["weights"]) == {"orders"}
    with pytest.raises(ConfigurationError, match="nothing in the source is called 'nobody'"):
        await chosen(only=["nobody"])
    with pytest.raises(ConfigurationError, match="did you mean 'orders'"):
        await chosen(exclude=["ordres"])
    for nothing in ({"only": ["nob*"]}, {"exclude": ["*"]}):
        with pytest.raises(ConfigurationError, match="leave nothing of the 6 buckets and streams"):
            await chosen(**nothing)


async def test_one_topic_for_two_routers_is_refused(migrating: Migrating, writer: Writer) -> None:
    await furnished(writer)
    with pytest.raises(ConfigurationError, match="--topic names one topic for 2 components"):
        await replace(migrating, choices=Choices(topic="kv")).plan()


def test_of_several_things_with_one_target_none_is_moved_and_each_names_the_others() -> None:
    items = [Item(kind="streams", source=name, target="t") for name in "ab"]
    others = [Item(kind="kv", source="c", target="t"), Item(kind="kv", source="d", target="")]
    planned = without_collisions([*items, *others])
    assert [item.target for item in planned] == ["", "", "t", ""]
    assert "b as well" in planned[0].refused[0].why
    assert "a as well" in planned[1].refused[0].why
