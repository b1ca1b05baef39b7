"""What Dynamo 0.7.1 really left on NATS is read whole, and is the same afterwards."""

from __future__ import annotations

from pathlib import Path

from dynlog.adapters.dynamo_json import decode_line
from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.adapters.nats.names import RADIX_OBJECT, component_of, events_stream, radix_bucket
from dynlog.adapters.nats.objects import list_objects, object_buckets, read_object
from dynlog.adapters.nats.streams import list_streams, read_stream, stream_info
from dynlog.migrations.radix_snapshot import decode_radix_snapshot
from dynlog.testing.nats import NatsServer as Served
from tests.migrations.dynamo_sample import BUCKET, STREAM, unpack_sample
from tests.nats_source.source import all_of, everything, sequences, writing


async def test_the_snapshot_and_the_streams_tail_that_dynamo_left_are_read_whole_and_nothing_changes(
    tmp_path: Path,
) -> None:
    async with Served(tmp_path / "nats", store=await unpack_sample(tmp_path)) as server, writing(server.url) as writer:
        before = await everything(writer)
        async with open_nats(NatsAccess(server.url)) as source:
            assert [info.name for info in await list_streams(source)] == [f"OBJ_{BUCKET}", STREAM]
            (bucket,) = await object_buckets(source)
            (snapshot,) = await list_objects(source, bucket)
            assert (bucket.name, snapshot.name, snapshot.problem) == (BUCKET, RADIX_OBJECT, "")
            assert len(decode_radix_snapshot(b"".join(await all_of(read_object(source, snapshot))))) == 7907
            tail = await all_of(read_stream(source, await stream_info(source, STREAM), first=1, last=9_999))
            component = component_of(STREAM)
            assert component is not None
            assert (events_stream(component), radix_bucket(component)) == (STREAM, BUCKET)
        assert sequences(tail) == list(range(560, 762))
        assert {message.subject for message in tail} == {f"{STREAM}.queue"}
        assert len({decode_line(message.data).worker_id for message in tail}) > 0
        assert await everything(writer) == before
