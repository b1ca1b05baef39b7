"""A member of a group waits until the group has begun, and does not wear the log out with asking."""

from __future__ import annotations

from typing import Any

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.errors import DeadlineExceeded
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network import named
from dynlog.network.named import NamedSubscription
from dynlog.network.registry import LocalRegistry
from dynlog.open import open_log

ENTITY = DynamoEntityID.from_name("a")


class Asked:
    """A log that counts how often it is asked where a group stands."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.times = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def committed(self, group: str, topic: str) -> Any:
        self.times += 1
        return await self._log.committed(group, topic)


async def test_a_group_that_nobody_leads_is_asked_for_seldom_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "BEGIN_S", 0.5)
    async with open_log("memory://") as log:
        await log.create_topic("t")
        asked: Any = Asked(log)
        subscription = NamedSubscription(
            ENTITY, "events", lambda event: pytest.fail("nothing comes"), LocalRegistry(), asked,
            name=None, group="workers", settings=ConsumerSettings(),
        )  # fmt: skip
        with pytest.raises(DeadlineExceeded, match=r"did not begin in 0\.5 s: who leads it?"):
            await subscription._has_begun("t")
        assert 3 <= asked.times <= 12
