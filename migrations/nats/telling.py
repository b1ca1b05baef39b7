"""What a copy of messages says in the journal: stretches that are in the target, and names that are refused there.

A line counts only for the topic in the life in which it was told: of one that was made anew nothing is known.
"""

from __future__ import annotations

from pydantic import JsonValue

from dynlog.migrations.nats.contract import Item, Moved, Run
from dynlog.migrations.nats.targets import Refusals
from dynlog.topics import Topic


class Telling:
    """The journal's side of one item that becomes one topic."""

    def __init__(self, item: Item, run: Run, topic: Topic) -> None:
        self._item, self._run, self._incarnation = item, run, topic.incarnation
        self.refused = Refusals()

    def earlier(self) -> list[Moved]:
        """The stretches that earlier runs told of; what they refused is refused still."""
        stretches = []
        for line in self._run.journal.lines(self._item.id).values():
            if line.detail.get("incarnation") != self._incarnation:
                continue
            if "why" in line.detail:
                self.refused.add(line.name, str(line.detail["why"]))
            else:
                stretches.append(line)
        return stretches

    async def moved(self, first: int, last: int, target: str, size: int, sums: int, **detail: JsonValue) -> None:
        """What lies between these sequences is in the target; ``sums`` adds up the XXH3-64 of its data."""
        await self._run.moved(
            Moved(
                item=self._item.id, name=f"{first}-{last}", source_seq=last, target=target, size=size,
                checksum=f"xxh3-sum:{sums % (1 << 64):016x}", detail={"incarnation": self._incarnation, **detail},
            )
        )  # fmt: skip

    async def refuse(self, name: str, sequence: int, why: str) -> None:
        """That is not moved; told once for each name."""
        if self.refused.add(name, why):
            detail: dict[str, JsonValue] = {"incarnation": self._incarnation, "why": why}
            await self._run.moved(
                Moved(item=self._item.id, name=name, source_seq=sequence, target="", size=0, checksum="", detail=detail)
            )


def told_before(first: int, stretches: list[Moved], what: str) -> int:
    """How many of ``what``, as their details count it, the stretches hold that end before that sequence."""
    return sum(int(str(line.detail.get(what, 0))) for line in stretches if line.source_seq < first)
