"""Takes a migration back: what its journal says that it made goes, and nothing else; the source is not touched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dynlog.errors import ConfigurationError
from dynlog.kv import HeldLease
from dynlog.migrations.nats.apply import each
from dynlog.migrations.nats.contract import Item, Outcome, Run
from dynlog.migrations.nats.journal import Stage
from dynlog.migrations.nats.lock import while_held
from dynlog.migrations.nats.movers import MOVERS, mover_of
from dynlog.migrations.nats.plan import is_named


async def roll_back(run: Run, lease: HeldLease, *, only: Sequence[str] = ()) -> list[Outcome]:
    """What came of each item of the journal, the last begun first; one that was taken back is left out.

    Raises ConfigurationError for a kind of item that this release does not know or if ``only`` names nothing,
    LeaseLost.
    """
    items = [
        state.item
        for state in reversed(list(run.journal.items.values()))
        if state.stage is not Stage.TAKEN_BACK and (not only or any(is_named(state.item, name) for name in only))
    ]
    if only and not any(is_named(state.item, name) for state in run.journal.items.values() for name in only):
        raise ConfigurationError(
            f"this migration began with nothing that --only names ({', '.join(only)}); 'dynlog migrate nats status' "
            "lists what it began with"
        )
    unknown = {item.kind for item in items} - {mover.kind for mover in MOVERS}
    if unknown:
        raise ConfigurationError(f"the journal has items of the kinds {sorted(unknown)}: a newer dynlog made them")

    async def one(item: Item) -> Outcome:
        return await mover_of(item.kind).rollback(item, run)

    return await while_held(lease, asyncio.create_task(each(items, one, run.journal.taken_back)))
