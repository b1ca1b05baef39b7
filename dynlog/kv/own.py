"""What this process has appended, as a reader would get it."""

from __future__ import annotations

from collections.abc import Sequence

from dynlog.batch import Batch
from dynlog.codec import Columns, mark_runs
from dynlog.record import Record
from dynlog.topics import Appended, Topic


def own_batch(topic: Topic, appended: Appended, records: Sequence[Record]) -> Batch:
    """The batch that reading those records back would give."""
    columns = Columns(
        [record.key for record in records],
        [[bytes(part) for part in record.parts] for record in records],
        None,
        None,
        None,
        mark_runs([record.mark for record in records]),
    )
    end, times = appended.offsets[-1] + 1, [appended.log_time_ms] * len(records)
    return Batch(topic.name, topic.incarnation, 0, appended.offsets, times, columns, end, end)
