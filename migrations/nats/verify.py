"""Verifies a migration: source and target are read again and compared, and the journal is not asked what is right."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dynlog.errors import DynlogError
from dynlog.migrations.nats.apply import HOPELESS
from dynlog.migrations.nats.contract import Difference, Run
from dynlog.migrations.nats.movers import mover_of
from dynlog.migrations.nats.plan import Plan


class Verified(BaseModel):
    """What the comparison of one item found; it is alike if there is no difference."""

    model_config = ConfigDict(frozen=True)

    item: str
    target: str
    differences: tuple[Difference, ...] = ()


async def verify_plan(plan: Plan, run: Run) -> list[Verified]:
    """Compares every item that the plan moves; an item that cannot be compared says so as a difference.

    Raises what stands in the way of all: SourceUnavailable, LogUnavailable.
    """
    verified = []
    for item in plan.moving:
        try:
            found = await mover_of(item.kind).verify(item, run)
        except HOPELESS:
            raise
        except DynlogError as error:
            found = [Difference(name=item.source, what=str(error))]
        verified.append(Verified(item=item.id, target=item.target, differences=tuple(found)))
    return verified
