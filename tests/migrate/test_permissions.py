"""A user who may read only some of what is there moves that; the rest is named with the permission that is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nats.js.api import KeyValueConfig, StreamConfig

from tests.migrate.migrating import Migrating, bucket, put
from tests.nats_source.source import Configured, writing

ALLOWED = ("STREAM.LIST", "STREAM.INFO.*", "CONSUMER.LIST.open", "DIRECT.GET.open", "STREAM.MSG.GET.open")
USERS = """
authorization {{ users = [
  {{ user: all, password: p }}
  {{ user: some, password: p, permissions: {{ publish: [{}], subscribe: "_INBOX.>" }} }}
] }}
""".format(", ".join(f'"$JS.API.{subject}"' for subject in ALLOWED))


async def test_what_may_not_be_read_is_named_and_the_rest_is_moved(tmp_path: Path, migrating: Migrating) -> None:
    server = Configured(tmp_path / "nats")
    server.lines = USERS
    async with server:
        place = f"127.0.0.1:{server.port}"
        async with writing(f"nats://all:p@{place}") as writer:
            await put(await bucket(writer, "weights"), "a", b"a")
            await (await writer.js.create_key_value(KeyValueConfig(bucket="settings"))).put("a", b"a")
            for name in ("closed", "open"):
                await writer.js.add_stream(StreamConfig(name=name, subjects=[name]))
                await writer.js.publish(name, b"1")
        some = replace(migrating, nats=f"nats://some:p@{place}")
        plan = await some.plan()
        assert {item.id for item in plan.moving} == {"kv:settings", "streams:open"}
        missing = {item.source: item.refused[0].why for item in plan.items if not item.target}
        assert missing.keys() == {"weights", "closed"}
        outcomes = await some.apply()
        missing["settings"] = outcomes["kv:settings"].refused[0].why  # a plan need not read the values
        assert all("does not let this user ask '$JS.API." in why for why in missing.values())
        assert (outcomes["streams:open"].moved, outcomes["streams:open"].refused) == (1, ())
        assert (await some.apply(only=["open"])).keys() == {"streams:open"}
