"""How far a migration is, from its journal alone: neither the source nor the object store has to be there."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dynlog.migrations.nats.contract import Refusal
from dynlog.migrations.nats.journal import Journal, Stage


class ItemStatus(BaseModel):
    """One item; ``moved`` and ``bytes`` are of everything that is in the target now, ``source_seq`` how far it got."""

    model_config = ConfigDict(frozen=True)

    item: str
    source: str
    target: str
    stage: Stage
    moved: int
    planned: int
    bytes: int
    source_seq: int
    last_seq: int
    began_ms: int
    ended_ms: int | None
    refused: tuple[Refusal, ...] = ()


def status_of(journal: Journal) -> list[ItemStatus]:
    """Every item that was ever begun, in the order of that."""
    found = []
    for state in journal.items.values():
        lines = [line for line in state.moved.values() if not line.detail.get("deleted")]
        found.append(
            ItemStatus(
                item=state.item.id, source=state.source, target=state.item.target, stage=state.stage,
                moved=len(lines), planned=state.item.count, bytes=sum(line.size for line in lines),
                source_seq=journal.last_seq(state.item.id), last_seq=state.item.last_seq,
                began_ms=state.began_ms, ended_ms=state.ended_ms,
                refused=state.outcome.refused if state.outcome is not None else (),
            )
        )  # fmt: skip
    return found
