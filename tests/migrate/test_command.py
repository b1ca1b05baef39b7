"""``dynlog migrate nats`` on what Dynamo 0.7.1 left on a real server: the rebuilt router is Dynamo's own on any log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import dynlog as library
from dynlog.cli import migrate_run
from dynlog.cli.migrate_options import Ends
from dynlog.errors import ConfigurationError
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.survey import look_around
from dynlog.testing.kinds import RunningServer
from dynlog.testing.nats import NatsServer
from tests.cli.process import Outcome, dynlog, on_a_terminal
from tests.migrate.migrating import bucket, holding, put
from tests.migrations.dynamo_sample import BUCKET, STREAM, dynamos_own_dump, held_blocks, unpack_sample
from tests.nats_source.source import Writer, everything, writing

ON = pytest.mark.parametrize(
    ("dynlog_engine", "dynlog_store"), [("sqlite", "file"), ("redis", "s3"), ("kafka", "s3")], indirect=True
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sample(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """The sample, served."""
    folder = tmp_path_factory.mktemp("sample")
    async with NatsServer(folder / "server", store=await unpack_sample(folder)) as server:
        yield server


async def nats(command: str, *arguments: str) -> Outcome:
    """One command of the group."""
    return await dynlog("migrate", "nats", command, *arguments)


def made_in(folder: Path) -> list[Path]:
    """What lies there."""
    return list(folder.iterdir())


async def told(command: str, *arguments: str) -> Any:
    """What it says to a machine, of a command that does all that it was asked for."""
    outcome = await nats(command, *arguments, "--json")
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


@ON
async def test_the_router_that_is_rebuilt_after_an_apply_dumps_what_dynamos_own_router_dumped(
    sample: NatsServer, dynlog_log_url: str, dynlog_objects_url: str
) -> None:
    target = ("--log", dynlog_log_url, "--objects", dynlog_objects_url)
    ends = ("--nats", sample.url, *target)
    outcomes = await told("apply", *ends)
    assert {outcome["item"]: outcome["moved"] for outcome in outcomes} == {
        f"objects:{BUCKET}": 1, f"router:{STREAM}": 7907 + 202,
    }  # fmt: skip
    assert all(not verified["differences"] for verified in await told("verify", *ends))
    dump = await dynlog("router", "dump", "--topic", STREAM, *target)
    assert held_blocks(json.loads(dump.out)) == held_blocks(dynamos_own_dump())


async def test_a_migration_is_planned_applied_told_of_and_taken_back_and_the_source_never_changes(
    sample: NatsServer, tmp_path: Path
) -> None:
    log = f"sqlite://{tmp_path}/log.db"
    target = ("--log", log, "--objects", f"file://{tmp_path}/objects")
    ends = ("--nats", sample.url, *target)
    async with writing(sample.url) as writer:
        before = await everything(writer)
        plan = await told("plan", *ends)
        assert not made_in(tmp_path)
        assert {(item["kind"], item["source"], item["count"]) for item in plan["items"]} == {
            ("objects", BUCKET, 1), ("router", STREAM, 7907 + 202),
        }  # fmt: skip
        assert "Dynamo 0.7 to 0.9" in plan["release"]
        await told("apply", *ends)
        assert all(outcome["moved"] == 0 for outcome in await told("apply", *ends))
        assert [item["stage"] for item in await told("status", "--log", log)] == ["done", "done"]
        alone = await dynlog("router", "dump", "--topic", STREAM, "--log", log)
        assert held_blocks(json.loads(alone.out)) == held_blocks(dynamos_own_dump())
        await told("rollback", "--yes", *target)
        assert STREAM not in (await dynlog("log", "topics", "--json", "--log", log)).out
        assert await everything(writer) == before


async def test_where_nothing_is_in_jetstream_the_plan_names_the_release_and_the_command_for_it(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    outcome = await nats("plan", "--nats", nats_server.url, *ends)
    assert outcome.status == 0
    assert "Dynamo 1.x" in outcome.out
    command = f"dynlog router ingest --format dynamo-nats {nats_server.url}/NAMESPACE/COMPONENT --log sqlite://"
    assert command in outcome.err


async def test_exit_statuses_say_whether_all_some_or_nothing_was_moved(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:
    ends = (
        "--nats", nats_server.url, "--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects",
    )  # fmt: skip
    source = await bucket(writer, "weights")
    await put(source, "torn", bytes(10_000))
    await writer.js.delete_msg("OBJ_weights", 2)
    nothing = await nats("apply", *ends)
    assert nothing.status == 1
    await put(source, "whole", b"whole")
    some = await nats("apply", *ends)
    assert some.status == 3
    assert "objects:weights: torn: " in some.err
    assert some.err.splitlines()[-1].startswith("dynlog: error: 1 name not moved, first 'torn'")
    assert (await nats("verify", *ends)).status == 1
    assert (await nats("apply", *ends, "--only", "nobody")).status == 2
    assert (await nats("apply", *ends, "--name", "a/b")).status == 2
    away = await nats("apply", "--nats", "nats://127.0.0.1:1", *ends[2:])
    assert away.status == 1
    assert away.complaint.endswith("nothing listens there: start it, or correct host and port")


@pytest.mark.parametrize("choice", [("--only", "wieghts"), ("--exclude", "*"), ("--partition-by", "token:0")])
async def test_a_choice_that_means_nothing_is_refused_before_anything_is_made(
    writer: Writer, nats_server: Any, tmp_path: Path, choice: tuple[str, str]
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    refused = await nats("apply", "--nats", nats_server.url, *ends, *choice)
    assert (refused.status, made_in(tmp_path)) == (2, []), refused.err


@pytest.mark.parametrize("choice", [{}, {"only": ("weights",)}, {"exclude": ("nob*",)}], ids=["all", "only", "exclude"])
async def test_the_source_is_looked_at_once_whatever_is_chosen_and_wherever_it_goes(
    writer: Writer, nats_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: dict[str, Any]
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    looks, real = 0, look_around

    async def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return await real(*arguments, **options)

    monkeypatch.setattr(migrate_run, "look_around", counting)
    ends = Ends(nats_server.url, f"sqlite://{tmp_path}/log.db", f"file://{tmp_path}/objects", "nats", **choice)
    for applied in (1, 2):  # into nothing, and into what is there
        await migrate_run.apply(ends, as_json=True)
        assert looks == applied


async def test_a_plan_for_a_log_that_is_not_there_yet_knows_what_that_will_take(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:
    await writer.js.add_stream(name="orders", subjects=["orders"])
    await writer.js.publish("orders", bytes(100_000))
    ends = ("--nats", nats_server.url, "--objects", f"file://{tmp_path}/objects")
    plan = await told("plan", *ends, "--log", f"sqlite://{tmp_path}/log.db?max_batch_bytes=65536")
    assert not made_in(tmp_path)
    assert [len(item["refused"]) for item in plan["items"]] == [1]
    plan = await told("plan", *ends, "--log", f"sqlite://{tmp_path}/log.db")
    assert [item["refused"] for item in plan["items"]] == [[]]


@pytest.mark.dynlog_engines("redis")
async def test_a_log_that_the_user_may_only_read_is_one_line_that_says_what_he_lacks(
    writer: Writer, nats_server: Any, redis_server: RunningServer, dynlog_log_url: str, tmp_path: Path
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    user = tmp_path.name
    async with Redis(host=redis_server.host, port=redis_server.port) as plain:
        await plain.acl_setuser(
            user, enabled=True, passwords="+pw", keys=["*"], channels=["*"], categories=["+@all", "-@write"]
        )
        try:
            log = dynlog_log_url.replace("redis://", f"redis://{user}:pw@")
            objects = f"file://{tmp_path}/objects"
            refused = await nats("apply", "--nats", nats_server.url, "--log", log, "--objects", objects)
        finally:
            await plain.acl_deluser(user)
    assert (refused.status, made_in(tmp_path)) == (2, [])
    assert "the ACL of this user does not allow" in refused.complaint
    assert "it needs the keys ~{PREFIX*" in refused.complaint
    assert "pw@" not in refused.err


async def test_a_second_command_is_refused_while_one_is_at_it(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:  # fmt: skip
    await put(await bucket(writer, "weights"), "a", b"a")
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    async with library.open_log(ends[1]) as log, holding(log, "nats"):
        refused = await nats("apply", "--nats", nats_server.url, *ends)
    assert refused.status == 1
    assert "is at this migration" in refused.complaint
    assert (await nats("apply", "--nats", nats_server.url, *ends)).status == 0


async def test_a_rollback_asks_first(tmp_path: Path) -> None:
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    assert (await dynlog("log", "create", "--log", ends[1], "t")).status == 0
    kept = await on_a_terminal("n\n", "migrate", "nats", "rollback", *ends)
    assert (kept.status, kept.out.strip()) == (1, "")
    assert kept.err.endswith("dynlog: nothing was removed\n")
    assert (await on_a_terminal("y\n", "migrate", "nats", "rollback", *ends)).status == 0
    for more in ((), ("--json",)):
        unasked = await dynlog("migrate", "nats", "rollback", *ends, *more)
        assert unasked.status == 2
        assert unasked.complaint == "removing what migration 'nats' made cannot be undone: confirm with --yes"


async def test_a_rollback_of_what_was_never_begun_with_is_refused(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    assert (await nats("apply", "--nats", nats_server.url, *ends)).status == 0
    refused = await nats("rollback", *ends, "--yes", "--only", "wieghts")
    assert (refused.status, "began with nothing that --only names (wieghts)" in refused.err) == (2, True)
    assert (await nats("rollback", *ends, "--yes", "--only", "weigh*")).status == 0


async def test_what_was_never_begun_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, objects = f"sqlite://{tmp_path}/log.db", f"file://{tmp_path}/objects"
    advice = "no migration into it has begun: correct --log, or begin with 'dynlog migrate nats apply'"
    with pytest.raises(ConfigurationError, match=advice):
        await migrate_run.status(log, "nats", as_json=False)
    with pytest.raises(ConfigurationError, match=advice):
        await migrate_run.rollback(log, objects, "nats", (), as_json=False)
    assert made_in(tmp_path) == []
    async with library.open_log(log):
        await migrate_run.rollback(log, objects, "other", (), as_json=False)
    said = capsys.readouterr().err
    assert said == "dynlog: no migration 'other' was ever begun here: there is nothing to take back\n"


async def test_an_apply_that_is_interrupted_says_that_it_goes_on(
    writer: Writer, nats_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(await bucket(writer, "weights"), "a", bytes(20_000))
    log = f"sqlite://{tmp_path}/log.db"
    ends = Ends(nats_server.url, log, f"file://{tmp_path}/objects", "nats", rate=1)
    async with asyncio.timeout(30), library.open_log(log) as opened:
        applying = asyncio.create_task(migrate_run.apply(ends, as_json=False))
        while not (await Journal.read(opened, "nats")).items:
            assert not applying.done()
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert "interrupted: what was moved stays and is known; apply again and it goes on" in capsys.readouterr().err


async def test_a_password_in_what_is_no_url_is_not_shown(tmp_path: Path) -> None:
    ends = ("--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects")
    refused = await nats("plan", *ends, "--nats", "user:sekret@127.0.0.1:4222")
    assert (refused.status, "sekret" in refused.err + refused.out) == (2, False)


async def test_what_a_plan_cannot_move_is_not_alike(writer: Writer, nats_server: Any, tmp_path: Path) -> None:
    for name in ("a_b", "a-b", "c"):
        await writer.js.add_stream(name=name, subjects=[name])
    ends = (
        "--nats", nats_server.url, "--log", f"sqlite://{tmp_path}/log.db", "--objects", f"file://{tmp_path}/objects",
    )  # fmt: skip
    assert (await nats("apply", *ends)).status == 3
    outcome = await nats("verify", *ends)
    assert outcome.status == 3
    assert "streams:a_b: a_b: 'a-b' would be the target of a-b as well" in outcome.err
    assert (await nats("verify", *ends, "--only", "c")).status == 0
