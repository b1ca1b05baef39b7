"""Who is there, who belongs to whom, and who must stop."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from dynlog.call_errors import HandlerFailed, NoSuchTopic, NotSent
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, DeadlineExceeded, EntityFenced
from dynlog.network.calls import Request
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.messages import of_model
from dynlog.record import Buffer
from tests.network.call_backend import PATIENCE_S
from tests.network.registry_backend import BACKEND, FLEET, FRONTEND, RegistryBackend, World

ONE, TWO = DynamoEntityID.from_name("one"), DynamoEntityID.from_name("two")


class Prompt(BaseModel):
    text: str


class Completion(BaseModel):
    text: str
    tokens: int


class RegistrySuite(RegistryBackend):
    async def test_members_of_a_collection_are_those_below_it_however_deep(self, world: World) -> None:
        await world.tree()
        await world.registry.join(Member(ONE, (BACKEND,)))
        await world.registry.join(Member(TWO, (FRONTEND, BACKEND)))
        await world.elsewhere.refresh()
        view = world.elsewhere.view
        assert [member.entity for member in view.instances(FLEET)] == sorted([ONE, TWO])
        assert [member.entity for member in view.instances(FRONTEND)] == [TWO]
        assert set(view.above(TWO)) == {FRONTEND, BACKEND, FLEET}

    async def test_what_a_member_says_of_itself_is_seen_elsewhere(self, world: World) -> None:
        interests = frozenset({Interest(FLEET, "news")})
        member = Member(ONE, (BACKEND,), ("tcp://127.0.0.1:1", "uds:///x"), "host", "process", interests)
        await world.registry.join(member)
        await world.elsewhere.refresh()
        seen = world.elsewhere.view.get(ONE)
        assert seen is not None
        assert (seen.parents, seen.addresses, seen.host, seen.process) == (
            (BACKEND,), member.addresses, "host", "process",
        )  # fmt: skip
        assert seen.interests == interests
        assert seen.entity.incarnation > 0

    async def test_a_later_life_fences_the_earlier_which_is_told(self, world: World) -> None:
        first = await world.registry.join(Member(ONE))
        second = await world.elsewhere.join(Member(ONE))
        assert second.member.entity.incarnation > first.member.entity.incarnation
        async with asyncio.timeout(PATIENCE_S):
            await first.over.wait()
        assert isinstance(first.reason, EntityFenced)
        with pytest.raises(EntityFenced):
            await first.update(Member(ONE, (BACKEND,)))
        await first.leave()
        await world.registry.refresh()
        seen = world.registry.view.get(ONE)
        assert seen is not None
        assert seen.entity.incarnation == second.member.entity.incarnation

    async def test_whoever_leaves_is_gone_everywhere(self, world: World) -> None:
        place = await world.registry.join(Member(ONE, (BACKEND,)))
        await place.leave()
        await world.elsewhere.refresh()
        assert world.elsewhere.view.get(ONE) is None
        assert world.elsewhere.view.instances(BACKEND) == []

    async def test_a_circle_is_refused_by_name(self, world: World) -> None:
        await world.tree()
        with pytest.raises(ConfigurationError, match="nothing contains itself"):
            await world.elsewhere.join(Member(FLEET, (BACKEND,)))
        with pytest.raises(ConfigurationError, match="nothing contains itself"):
            await world.registry.join(Member(BACKEND, (BACKEND,)))

    async def test_an_instance_has_no_members(self, world: World) -> None:
        with pytest.raises(ConfigurationError, match="only a collection has members"):
            await world.registry.join(Member(TWO, (ONE,)))

    async def test_changes_are_told(self, world: World) -> None:
        changed: list[DynamoEntityID] = []
        end = world.elsewhere.on_change(changed.append)
        place = await world.registry.join(Member(ONE))
        await world.elsewhere.refresh()
        assert ONE in changed
        end()
        changed.clear()
        await place.leave()
        await world.elsewhere.refresh()
        assert changed == []


class ManagerSuite(RegistryBackend):
    async def test_a_broadcast_brings_one_reply_of_each_instance_and_the_offset_at_which_they_were_there(
        self, world: World
    ) -> None:
        await world.tree()
        asked: list[str] = []
        for name in ("a", "b", "c"):
            manager = await world.manager(name, BACKEND)

            async def stats(request: Request, name: str = name) -> Buffer:
                asked.append(name)
                return name.encode()

            manager.serve("stats", stats)
        caller = await world.manager("caller", elsewhere=True)
        gathered = await caller.broadcast(FLEET, "stats")
        assert sorted(bytes(reply) for reply in gathered.replies.values()) == [b"a", b"b", b"c"]
        assert sorted(asked) == ["a", "b", "c"]
        assert gathered.missing == {}
        assert gathered.view_offset > 0

    async def test_whoever_broadcasts_to_a_collection_of_its_own_answers_too(self, world: World) -> None:
        await world.tree()
        managers = [await world.manager(name, BACKEND) for name in ("a", "b")]
        for manager in managers:

            async def stats(request: Request, name: str = str(manager.entity.name)) -> Buffer:
                return name.encode()

            manager.serve("stats", stats)
        gathered = await managers[0].broadcast(FLEET, "stats", deadline=PATIENCE_S)
        assert sorted(bytes(reply) for reply in gathered.replies.values()) == [b"a", b"b"]
        assert gathered.missing == {}

    async def test_whoever_does_not_answer_a_broadcast_is_named_with_the_reason(self, world: World) -> None:
        await world.tree()
        served, mute = await world.manager("served", BACKEND), await world.manager("mute", BACKEND)
        await world.registry.join(Member(DynamoEntityID.from_name("absent"), (BACKEND,), ("inproc://nowhere",)))

        async def stats(request: Request) -> Buffer:
            return b"here"

        served.serve("stats", stats)
        caller = await world.manager("caller", elsewhere=True)
        gathered = await caller.broadcast(BACKEND, "stats", deadline=1.0)
        assert set(gathered.replies) == {served.entity}
        assert isinstance(gathered.missing[mute.entity], NoSuchTopic)
        assert isinstance(gathered.missing[DynamoEntityID.from_name("absent")], NotSent)

    async def test_a_broadcast_to_nobody_is_empty_and_one_to_an_instance_is_refused(self, world: World) -> None:
        caller = await world.manager("caller")
        assert (await caller.broadcast(DynamoEntityID.collection("nobody"), "stats")).replies == {}
        with pytest.raises(ConfigurationError, match="goes to a collection"):
            await caller.broadcast(caller.entity, "stats")

    async def test_a_peer_that_is_not_there_is_said_to_be_so_before_anything_is_sent(self, world: World) -> None:
        caller = await world.manager("caller")
        with pytest.raises(NotSent, match="not in the registry"):
            await caller.request(ONE, "echo")

    async def test_a_peer_that_comes_back_elsewhere_is_found_and_its_old_life_is_over(self, world: World) -> None:
        async def echo(request: Request) -> Buffer:
            return request.body

        first = await world.manager("server")
        first.serve("echo", echo)
        caller = await world.manager("caller", elsewhere=True)
        assert bytes(await caller.request(first.entity, "echo", b"1")) == b"1"
        second = await world.manager("server", elsewhere=True)
        second.serve("echo", echo)
        async with asyncio.timeout(PATIENCE_S):
            await first.over.wait()
        await first.close()
        assert bytes(await caller.request(second.entity, "echo", b"2", deadline=PATIENCE_S)) == b"2"

    async def test_headers_and_what_is_left_of_the_time_go_on_to_the_calls_that_a_handler_makes(
        self, world: World
    ) -> None:
        seen: dict[str, object] = {}
        inner, outer = await world.manager("inner"), await world.manager("outer")
        caller = await world.manager("caller")

        async def deep(request: Request) -> Buffer:
            seen.update(request.headers)
            seen["left"] = request.deadline.remaining
            return b"deep"

        async def relay(request: Request) -> Buffer:
            return await outer.request(inner.entity, "deep", headers={"hop": "2"})

        inner.serve("deep", deep)
        outer.serve("relay", relay)
        reply = await caller.request(outer.entity, "relay", deadline=7.0, headers={"trace": "t", "hop": "1"})
        assert bytes(reply) == b"deep"
        assert (seen["trace"], seen["hop"]) == ("t", "2")
        assert isinstance(seen["left"], float)
        assert 0 < seen["left"] <= 7.0

    async def test_a_flush_returns_once_a_wire_has_what_was_said_and_fails_by_its_deadline(self, world: World) -> None:
        server, caller = await world.manager("server"), await world.manager("caller")

        async def echo(request: Request) -> Buffer:
            return request.body

        server.serve("echo", echo)
        await caller.request(server.entity, "echo", b"first")
        calls = [asyncio.create_task(caller.request(server.entity, "echo", bytes(100_000))) for _ in range(20)]
        await asyncio.sleep(0)
        await caller.flush()
        assert [len(await call) for call in calls] == [100_000] * 20
        (link,) = caller.links()
        assert link.channel is not None
        there = server.links()[0].channel
        assert there is not None
        there.pause()  # nothing is taken there: what is said stays here, as far as the wire has no room
        stuck = [asyncio.create_task(caller.request(server.entity, "echo", bytes(1_000_000))) for _ in range(20)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await caller.flush(0.2)
        there.resume()
        assert [len(await call) for call in stuck] == [1_000_000] * 20
        await caller.flush()

    async def test_models_go_and_come_as_models_and_what_does_not_fit_says_where(self, world: World) -> None:
        async def generate(prompt: Prompt) -> Completion:
            return Completion(text=prompt.text.upper(), tokens=len(prompt.text))

        async def odd(prompt: Prompt) -> str:
            return '{"text": "x"}'

        server, caller = await world.manager("server"), await world.manager("caller")
        server.serve("generate", of_model(Prompt, generate))
        server.serve("odd", of_model(Prompt, odd))
        answer = await caller.ask(server.entity, "generate", Prompt(text="hello"), Completion)
        assert answer == Completion(text="HELLO", tokens=5)
        with pytest.raises(HandlerFailed, match="no Prompt: text: Field required"):
            await caller.request(server.entity, "generate", b"{}")
        with pytest.raises(HandlerFailed, match="no Completion: tokens: Field required"):
            await caller.ask(server.entity, "odd", Prompt(text="x"), Completion)

    async def test_a_token_that_is_wrong_opens_no_session(self, world: World) -> None:
        server = await world.manager("server", token=b"secret")

        async def echo(request: Request) -> Buffer:
            return request.body

        server.serve("echo", echo)
        stranger = await world.manager("stranger", token=b"guess")
        friend = await world.manager("friend", token=b"secret")
        with pytest.raises(Exception, match="token"):
            await stranger.request(server.entity, "echo", b"x", deadline=2.0)
        assert bytes(await friend.request(server.entity, "echo", b"x")) == b"x"

    async def test_a_drained_manager_finishes_what_runs_and_takes_no_more(self, world: World) -> None:
        begun, let_go = asyncio.Event(), asyncio.Event()
        server, caller = await world.manager("server"), await world.manager("caller")

        async def hold(request: Request) -> Buffer:
            begun.set()
            await let_go.wait()
            return b"finished"

        server.serve("hold", hold)
        running = asyncio.create_task(caller.request(server.entity, "hold"))
        await begun.wait()
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        with pytest.raises(NotSent):
            await caller.request(server.entity, "hold", deadline=0.5)
        let_go.set()
        assert bytes(await running) == b"finished"
        assert await draining
