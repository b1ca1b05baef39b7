"""What the commands of ``dynlog migrate nats`` do: open both ends, work, say what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.cli.app import PartialSuccess
from dynlog.cli.log_open import open_existing
from dynlog.cli.migrate_looks import say_outcomes, say_plan, say_status, say_verified
from dynlog.cli.migrate_options import Ends
from dynlog.cli.migrate_progress import showing
from dynlog.cli.output import say
from dynlog.errors import ConfigurationError, DynlogError
from dynlog.log import Log
from dynlog.migrations.nats.apply import apply_plan
from dynlog.migrations.nats.contract import Choices, Difference, Limits, Outcome, Progress, Run
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.lock import only_one
from dynlog.migrations.nats.plan import Plan, make_plan
from dynlog.migrations.nats.rollback import roll_back
from dynlog.migrations.nats.status import status_of
from dynlog.migrations.nats.survey import look_around
from dynlog.migrations.nats.verify import Verified, verify_plan
from dynlog.objects import ObjectStore
from dynlog.open import open_log, open_objects
from dynlog.url import parse_url, shown


class NothingDone(DynlogError):
    """Nothing of what was asked for could be done; the report says why, for each thing."""


async def plan(ends: Ends, *, as_json: bool) -> None:
    """Shows the plan; makes nothing, not even an empty log."""
    async with _nats(ends) as server:
        planned = await _planned_from_outside(ends, server)
    say_plan(planned, as_json=as_json)
    for advice in planned.advice:
        say(advice)


async def apply(ends: Ends, *, as_json: bool) -> None:
    """Plans and applies; raises PartialSuccess if something was not moved, NothingDone if nothing was."""
    try:
        await _apply(ends, as_json=as_json)
    except asyncio.CancelledError:
        say("interrupted: what was moved stays and is known; apply again and it goes on, or roll it back")
        raise


async def _apply(ends: Ends, *, as_json: bool) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_nats(ends))
        # Before the lease, which is the first thing that is made: a choice that means nothing leaves nothing behind.
        planned = await _planned_from_outside(ends, server)
        log = await stack.enter_async_context(open_log(ends.log))
        objects = await stack.enter_async_context(open_objects(ends.objects))
        lease = await stack.enter_async_context(only_one(log, ends.name))
        if not as_json and not planned.moving:
            say_plan(planned, as_json=False)
        async with Journal.write(log, ends.name) as journal:
            with showing(planned.moving, "moving") as progress:
                run = _run(ends, server, log, objects, journal, progress)
                outcomes = await apply_plan(planned, run, lease)
    listed = [
        Outcome(item=item.id, refused=item.refused) for item in planned.items if not item.target and item.refused
    ]  # fmt: skip
    say_outcomes([*outcomes, *listed], {item.id: item for item in planned.items}, "MOVED", as_json=as_json)
    _raise_what_is_missing([*outcomes, *listed], "moved")


async def verify(ends: Ends, *, as_json: bool) -> None:
    """Compares; raises PartialSuccess if something differs, NothingDone if everything does."""
    async with _nats(ends) as server, _begun(ends.log) as log, open_objects(ends.objects) as objects:
        planned = await _planned(ends, server, log, objects)
        with showing(planned.moving, "comparing", by_bytes=False) as progress:
            run = _run(ends, server, log, objects, await Journal.read(log, ends.name), progress)
            verified = [*await verify_plan(planned, run), *_not_moved(planned)]
    say_verified(verified, as_json=as_json)
    differing = [each.item for each in verified if each.differences]
    if differing:
        message = f"{len(differing)} of {len(verified)} differ from the source: {', '.join(differing)}"
        raise PartialSuccess(message) if len(differing) < len(verified) else NothingDone(message)


def _not_moved(planned: Plan) -> list[Verified]:
    """What is only listed, and should not pass for what is alike."""
    return [
        Verified(
            item=item.id, target="", differences=tuple(Difference(name=r.name, what=r.why) for r in item.refused)
        )
        for item in planned.items
        if not item.target and item.refused
    ]  # fmt: skip


async def status(log_url: str, name: str, *, as_json: bool) -> None:
    """Shows the journal."""
    async with _begun(log_url) as log:
        say_status(status_of(await Journal.read(log, name)), name, as_json=as_json)


async def rollback(log_url: str, objects_url: str, name: str, only: Sequence[str], *, as_json: bool) -> None:
    """Takes back; raises PartialSuccess if something stays."""
    async with (
        _begun(log_url) as log,
        open_objects(objects_url) as objects,
        only_one(log, name) as lease,
        Journal.write(log, name) as journal,
    ):
        items = [state.item for state in journal.items.values()]
        if not items:
            say(f"no migration {name!r} was ever begun here: there is nothing to take back")
        with showing(items, "taking back") as progress:
            run = Run(name, None, log, objects, journal, Limits(), Choices(), progress)
            outcomes = await roll_back(run, lease, only=only)
    say_outcomes(outcomes, {item.id: item for item in items}, "REMOVED", as_json=as_json)
    staying = [refusal for outcome in outcomes for refusal in outcome.refused]
    if staying:
        stays = f"{len(staying)} things stay" if len(staying) > 1 else "1 thing stays"
        raise PartialSuccess(f"{stays}: {staying[0].name}: {staying[0].why}")


def _raise_what_is_missing(outcomes: Sequence[Outcome], done: str) -> None:
    missing = [refusal for outcome in outcomes for refusal in outcome.refused]
    if not missing:
        return
    message = f"{_count(missing, 'name')} not {done}, first {missing[0].name!r}: {missing[0].why}"
    if any(outcome.moved or outcome.already or not outcome.refused for outcome in outcomes):
        raise PartialSuccess(message)
    raise NothingDone(message)


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things):,} {what}{'' if len(things) == 1 else 's'}"


async def _planned_from_outside(ends: Ends, server: NatsServer) -> Plan:
    """The plan, without making anything: what is not there yet is taken for empty."""
    async with (
        open_existing(ends.log) if _is_there(ends.log) else open_log(_as_empty(ends.log)) as log,
        open_objects(ends.objects if _is_there(ends.objects) else "memory://") as objects,
    ):
        return await _planned(ends, server, log, objects)


def _as_empty(log_url: str) -> str:
    """A log in memory that takes what that one will take."""
    most = parse_url(log_url).options.get("max_batch_bytes", "")
    return f"memory://?max_batch_bytes={most}" if most.isdecimal() and int(most) else "memory://"


async def _planned(ends: Ends, server: NatsServer, log: Log, objects: ObjectStore) -> Plan:
    survey = await look_around(
        ends.name, server, log, objects, _choices(ends), log_url=shown(ends.log), objects_url=shown(ends.objects)
    )
    return await make_plan(survey, only=ends.only, exclude=ends.exclude)


def _choices(ends: Ends) -> Choices:
    return Choices(ends.model_root, ends.topic, ends.partition_by, ends.partitions)


def _run(
    ends: Ends, server: NatsServer, log: Log, objects: ObjectStore, journal: Journal, progress: Progress
) -> Run:  # fmt: skip
    limits = Limits(ends.concurrency, float(ends.rate) if ends.rate is not None else None)
    return Run(ends.name, server, log, objects, journal, limits, _choices(ends), progress)


@asynccontextmanager
async def _nats(ends: Ends) -> AsyncIterator[NatsServer]:
    access = NatsAccess(ends.nats, creds=ends.creds, ca=ends.ca, cert=ends.cert, key=ends.key)
    async with open_nats(access) as server:
        yield server


@asynccontextmanager
async def _begun(log_url: str) -> AsyncIterator[Log]:
    """The log that a migration was applied to."""
    if not _is_there(log_url):
        raise ConfigurationError(
            f"there is no log at {shown(log_url)}, so no migration into it has begun: correct --log, or begin with "
            "'dynlog migrate nats apply'"
        )
    async with open_existing(log_url) as log:
        yield log


def _is_there(url: str) -> bool:
    """Whether opening it would make nothing: what lives with a server is there, or its server says no."""
    parsed = parse_url(url)
    return parsed.scheme not in ("sqlite", "file") or Path(parsed.path).exists()
