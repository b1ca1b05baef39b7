"""``dynlog entities`` and the registry behind it: what lies in the bucket is shown, whole or not."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.kv import open_kv
from dynlog.network.bucket_registry import open_registry
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.joining import join_network
from dynlog.network.registry_look import look_at
from dynlog.network.registry_records import key_of
from dynlog.open import open_log
from tests.network.call_backend import PATIENCE_S

GENERATE = DynamoEntityID.collection("dynamo/backend/generate")


async def entities(url: str, *arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of the command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynlog.cli", "entities", "--log", url, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


async def test_members_are_drawn_below_their_collections_and_a_namespace_alone_if_asked(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/fleet.db"
    async with open_log(url) as log:
        worker = DynamoEntityID.from_name("dynamo/backend/generate/0")
        async with (
            join_network(log, worker, parents=[GENERATE], listen=["tcp://127.0.0.1:0"]) as manager,
            join_network(log, DynamoEntityID.from_name("alone")) as alone,
        ):
            status, out, _ = await entities(url)
            assert status == 0
            assert out.splitlines()[1:] == [
                "  collection:dynamo",
                "    collection:dynamo/backend",
                "      collection:dynamo/backend/generate",
                f"        {manager.entity}  {manager.addresses[0]}",
                f"  {alone.entity}",
            ]
            _, out, _ = await entities(url, "--namespace", "dynamo", "--component", "backend")
            assert "collection:dynamo/backend/generate" in out
            assert "alone" not in out
            _, out, _ = await entities(url, "--namespace", "dynamo", "--json")
            said = json.loads(out)
            assert said["revision"] is None
            assert {m["entity"] for m in said["network"]["members"]} == {
                "collection:dynamo/backend", "collection:dynamo/backend/generate", "instance:dynamo/backend/generate/0",
            }  # fmt: skip
            (shown,) = [m for m in said["network"]["members"] if m["incarnation"]]
            assert (shown["addresses"], shown["parents"]) == (list(manager.addresses), [str(GENERATE)])


async def test_a_log_in_which_nobody_registered_is_said_to_be_so(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/empty.db"
    async with open_log(url) as log:
        await log.create_topic("other")
    status, out, err = await entities(url)
    assert (status != 0, out) == (True, "")
    assert "nobody has registered" in err


async def test_what_is_no_member_hides_nobody_and_is_named_with_the_reason() -> None:
    async with open_log("memory://shown") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as registry:
            one, two = DynamoEntityID.from_name("one"), DynamoEntityID.from_name("two")
            await registry.join(Member(one))
            await bucket.put("entities/nonsense", b"{")
            await bucket.put(key_of(two), b'{"entity": "instance:three"}')
            await registry.refresh()
            look = await look_at(bucket)
            for view, unreadable in ((registry.view, registry.unreadable), look):
                assert [member.entity for member in view.members()] == [one]
                assert set(unreadable) == {"entities/nonsense", key_of(two)}
                assert "instance:three" in unreadable[key_of(two)]
            await registry.join(Member(two))
            assert registry.unreadable.keys() == {"entities/nonsense"}


async def test_a_look_a_follower_and_who_comes_late_see_the_same_edges_of_the_same_age() -> None:
    fleet, backend = DynamoEntityID.collection("fleet"), DynamoEntityID.collection("backend")
    async with open_log("memory://same") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as first:
            one = DynamoEntityID.from_name("one")
            await first.join(Member(backend, (fleet,)))
            place = await first.join(Member(one, (backend,)))
            began = dict(first.view.above(one))
            for number in range(3):
                interests = frozenset({Interest(one, f"topic-{number}")})
                await place.update(Member(one, (backend,), interests=interests))
            await first.join(Member(backend, (fleet,)))  # says nothing new
            async with open_registry(bucket) as late:
                look = await look_at(bucket)
                for view in (first.view, late.view, look.view):
                    assert {entity: since.offset for entity, since in view.above(one).items()} == {
                        entity: since.offset for entity, since in began.items()
                    }
                    assert view.joined(one) == first.view.joined(one)
                    assert view.tree() == first.view.tree()


async def test_of_updates_at_once_the_last_that_was_asked_for_stays() -> None:
    async with open_log("memory://updates") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as registry:
            one = DynamoEntityID.from_name("one")
            place = await registry.join(Member(one))
            said = [Member(one, addresses=(f"tcp://127.0.0.1:{number}",)) for number in range(1, 21)]
            offsets = await asyncio.gather(*map(place.update, said))
            assert offsets == sorted(offsets)
            seen = registry.view.get(one)
            assert seen is not None
            assert seen.addresses == place.member.addresses == said[-1].addresses


@pytest.mark.parametrize("how", ["join", "update"])
async def test_a_circle_that_two_close_at_once_is_refused_to_the_later_and_leaves_nothing(how: str) -> None:
    left, right = DynamoEntityID.collection("left"), DynamoEntityID.collection("right")
    async with (
        open_log("memory://circle") as log,
        open_kv(log, compaction=None) as kv,
        open_kv(log, compaction=None) as other_kv,
    ):
        await kv.create("network")
        async with (
            open_registry(await kv.bucket("network")) as here,
            open_registry(await other_kv.bucket("network")) as there,
        ):
            if how == "update":
                places = [await here.join(Member(left)), await there.join(Member(right))]
                work = [places[0].update(Member(left, (right,))), places[1].update(Member(right, (left,)))]
            else:
                work = [here.join(Member(left, (right,))), there.join(Member(right, (left,)))]  # type: ignore[list-item]
            outcomes = await asyncio.gather(*work, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            assert len(refused) == 1
            assert "contain" in str(refused[0])
            for registry in (here, there):
                await registry.refresh()
                assert registry.view.broken == {}
                assert registry.view.is_below(left, right) != registry.view.is_below(right, left)


async def test_a_member_whose_key_somebody_deletes_is_told_to_stop() -> None:
    async with open_log("memory://deleted") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as registry:
            place = await registry.join(Member(DynamoEntityID.from_name("one")))
            await bucket.delete(key_of(place.member.entity))
            async with asyncio.timeout(PATIENCE_S):
                await place.over.wait()
            assert "registered no longer" in str(place.reason)
            again = await registry.join(Member(DynamoEntityID.from_name("one")))
            assert not again.over.is_set()


async def test_two_of_one_name_in_one_process_the_earlier_is_told() -> None:
    async with open_log("memory://two") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as registry:
            first = await registry.join(Member(DynamoEntityID.from_name("one")))
            second = await registry.join(Member(DynamoEntityID.from_name("one")))
            async with asyncio.timeout(PATIENCE_S):
                await first.over.wait()
            assert not second.over.is_set()
            await first.leave()
            await registry.refresh()
            assert registry.view.get(second.member.entity) is not None


async def test_if_the_bucket_goes_all_who_joined_are_told_and_nobody_is_shown_an_old_view() -> None:
    async with open_log("memory://gone") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create("network")
        async with open_registry(bucket) as registry:
            place = await registry.join(Member(DynamoEntityID.from_name("one")))
            await kv.delete("network")
            async with asyncio.timeout(PATIENCE_S):
                await place.over.wait()
            with pytest.raises(Exception, match="network"):
                await registry.refresh()
