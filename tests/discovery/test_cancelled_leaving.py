"""Whoever is cancelled while his registration ends is cancelled, and the entity is no longer there."""

from __future__ import annotations

from dynlog.discovery.models import Entity
from tests.cancelling import cancelled_as_it_ends, task_called
from tests.discovery.backend import FoldLease, directory, name


async def test_a_cancellation_as_a_registration_ends_is_not_lost_and_neither_is_its_deletion() -> None:
    async with directory() as there:
        registration = there.register(Entity.of(name(), {}), await FoldLease.grant(there.bucket))
        await registration.__aenter__()
        assert await there.get(name()) is not None
        watching = task_called("dynlog-registration")
        await cancelled_as_it_ends(registration.__aexit__(None, None, None), watching)
        assert await there.get(name()) is None
