"""Applies a plan, item by item: what goes wrong with one is its outcome, and the rest goes on.

* **Killed at any instant and run again it goes on** from the journal, and doubles nothing.
* **One at a time**: a second apply of the same migration is refused, and one that loses its lease stops.
* An item of a journal whose source was made anew, or whose target would now be another, is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dynlog.errors import (
    ConfigurationError,
    DynlogError,
    LogUnavailable,
    ObjectStoreUnavailable,
    ProducerFenced,
    SourceUnavailable,
)
from dynlog.kv import HeldLease
from dynlog.migrations.nats.contract import Item, Outcome, Refusal, Run
from dynlog.migrations.nats.journal import Stage
from dynlog.migrations.nats.lock import while_held
from dynlog.migrations.nats.movers import mover_of
from dynlog.migrations.nats.plan import Plan

MOST_IN_A_ROW = 3
"""After so many items in a row that the object store had no answer for, the others are not tried."""
HOPELESS = (SourceUnavailable, LogUnavailable, ProducerFenced)
"""Whatever comes next would meet the same: the items that are left are named as not tried."""

Told = Callable[[Item], None]


async def apply_plan(plan: Plan, run: Run, lease: HeldLease, begun: Told = lambda item: None) -> list[Outcome]:
    """What came of each item that the plan moves, in its order; raises LeaseLost once others may have taken over."""
    return await while_held(lease, asyncio.create_task(_apply(plan, run, begun)))


async def _apply(plan: Plan, run: Run, begun: Told) -> list[Outcome]:
    async def one(item: Item) -> Outcome:
        _check_same(item, run, plan.source)
        begun(item)
        await run.journal.begin(item, plan.source)
        outcome = await mover_of(item.kind).apply(item, run)
        known = {refusal.name for refusal in outcome.refused}
        planned = [refusal for refusal in item.refused if refusal.name not in known]
        return outcome.model_copy(update={"refused": (*planned, *outcome.refused)})

    return await each(plan.moving, one, run.journal.end)


async def each(
    items: Sequence[Item], work: Callable[[Item], Awaitable[Outcome]], ended: Callable[[Outcome], Awaitable[None]]
) -> list[Outcome]:
    """The outcome of the work on each item; an item's own failure is its outcome."""
    outcomes: list[Outcome] = []
    hopeless: DynlogError | None = None
    stores_away = 0
    for item in items:
        if hopeless is not None:
            why = f"not tried, because of what stopped the one before: {hopeless}"
            outcomes.append(Outcome(item=item.id, refused=(Refusal(name=item.source, why=why),)))
            continue
        try:
            outcome = await work(item)
            stores_away = 0
        except DynlogError as error:
            outcome = Outcome(item=item.id, refused=(Refusal(name=item.source, why=str(error)),))
            stores_away = stores_away + 1 if isinstance(error, ObjectStoreUnavailable) else 0
            if isinstance(error, HOPELESS) or stores_away >= MOST_IN_A_ROW:
                hopeless = error
        outcomes.append(outcome)
        if not isinstance(hopeless, LogUnavailable | ProducerFenced):
            await ended(outcome)
    return outcomes


def _check_same(item: Item, run: Run, source: str) -> None:
    known = run.journal.items.get(item.id)
    if known is None or known.stage is Stage.TAKEN_BACK:
        return
    if known.item.created != item.created:
        raise ConfigurationError(
            f"{item.source!r} was deleted and made anew on {source} since this migration began with it: roll it back "
            "first (dynlog migrate nats rollback), or give this migration another name with --name"
        )
    if known.item.target != item.target:
        raise ConfigurationError(
            f"this migration began to move {item.source!r} to {known.item.target!r}, not to {item.target!r}: use the "
            "same options again, or roll it back first"
        )
