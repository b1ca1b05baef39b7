"""A channel over HTTP whose work is cancelled as it ends gives back all that it had."""

from __future__ import annotations

import asyncio

from tests.cancelling import PATIENCE_S, task_called
from tests.wires.test_sse_wire import carries, listening


async def test_a_cancellation_as_the_last_request_ends_is_not_lost_and_the_channel_is_given_back() -> None:
    async with listening() as place:
        ends = await place.dial()
        await carries(ends, 1, 10)
        (dialled,) = place.here._dialled  # type: ignore[attr-defined]
        reading, working = task_called("dynlog-sse-read"), dialled._working
        reading.add_done_callback(lambda _: working.cancel())
        ends.near.close()
        await asyncio.wait([working], timeout=PATIENCE_S)
        assert working.cancelled()
        assert dialled.finished.done()
        assert not place.here._dialled  # type: ignore[attr-defined]
        assert await ends.far_box.ended() is None
