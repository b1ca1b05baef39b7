"""The movers, in the order in which a plan is applied: what refers to other things comes after them."""

from __future__ import annotations

from collections.abc import Sequence

from dynlog.migrations.nats.contract import Mover
from dynlog.migrations.nats.kv import KvMover
from dynlog.migrations.nats.models import ModelMover
from dynlog.migrations.nats.objects import ObjectMover
from dynlog.migrations.nats.snapshots import RouterMover
from dynlog.migrations.nats.streams import StreamMover

MOVERS: Sequence[Mover] = (ModelMover(), ObjectMover(), KvMover(), RouterMover(), StreamMover())


def mover_of(kind: str) -> Mover:
    """The mover of that kind of item; raises KeyError for a kind that no release of dynlog has."""
    return {mover.kind: mover for mover in MOVERS}[kind]
