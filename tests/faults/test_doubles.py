"""The logs with faults on purpose take what a real one takes: what is tested over them is tested over the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynlog.errors import OffsetConflict, OutcomeUnknown
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from tests.consume.deaf import DeafLog
from tests.faulty import Fault, FaultyLog


@pytest.mark.parametrize("double", [FaultyLog, DeafLog])
async def test_an_append_over_a_double_is_stored_only_where_the_log_ends(
    double: Callable[[Log], FaultyLog | DeafLog],
) -> None:
    async with open_log("memory://") as real:
        await real.create_topic("t")
        log = double(real).log
        assert (await log.append("t", 0, [Record()], expect=0)).offsets == (0,)
        with pytest.raises(OffsetConflict):
            await log.append("t", 0, [Record()], expect=0)
        assert (await real.partitions("t"))[0].end == 1


async def test_an_append_whose_acknowledgement_is_lost_was_stored_where_it_expected_to_be() -> None:
    async with open_log("memory://") as real:
        await real.create_topic("t")
        faulty = FaultyLog(real)
        faulty.faults.append(Fault.STORED_UNSAID)
        with pytest.raises(OutcomeUnknown):
            await faulty.log.append("t", 0, [Record()], expect=0)
        faulty.faults.append(Fault.STORED_UNSAID)
        with pytest.raises(OffsetConflict):
            await faulty.log.append("t", 0, [Record()], expect=0)
