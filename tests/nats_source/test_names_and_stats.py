"""Dynamo's names on NATS, there and back, and what the instances of a service say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.names import (
    Component,
    component_of,
    component_subject,
    events_stream,
    events_subject,
    radix_bucket,
    slug,
)
from dynlog.adapters.nats.stats import read_stats, service_stats
from dynlog.errors import ConfigurationError
from tests.migrations.dynamo_sample import BUCKET, STREAM
from tests.nats_source.source import Writer, name_of


def test_names_are_those_that_dynamo_made() -> None:
    backend = Component("demo", "backend")
    assert events_subject(backend) == "namespace.demo.component.backend.kv-events"
    assert events_stream(backend) == STREAM
    assert radix_bucket(backend) == BUCKET
    assert component_of(STREAM) == component_of(BUCKET) == backend


@pytest.mark.parametrize(
    ("name", "expected"), [("A_b.C/d", "a-b-c-d"), ("ä", "-"), ("a--b", "a--b"), ("", "")]
)  # fmt: skip
def test_a_slug_keeps_letters_digits_and_dashes(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_two_names_that_become_one_slug_cannot_be_told_apart_again() -> None:
    assert events_stream(Component("a_b", "c")) == events_stream(Component("a-b", "c"))
    assert component_of(events_stream(Component("a_b", "c"))) == Component("a-b", "c")


@pytest.mark.parametrize("name", ["other", "namespace-a-kv-events", "x-radix-bucket", "namespace--component-"])
def test_what_no_component_made_is_of_none(name: str) -> None:
    assert component_of(name) is None


@pytest.mark.parametrize("name", ["a.b", "a b", "*", ">", "", "a\r\nPUB x 0"])
def test_a_name_that_no_subject_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be part of a NATS subject"):
        component_subject(Component(name, "c"))


def answer(name: str, id: str, requests: int = 0) -> bytes:
    endpoint = {
        "name": "generate", "subject": "s", "num_requests": requests, "num_errors": 1, "processing_time": 5,
        "last_error": "", "data": {"kv": 1},
    }  # fmt: skip
    return json.dumps(
        {"name": name, "id": id, "version": "1.0.0", "started": "2025-01-01T00:00:00Z", "endpoints": [endpoint]}
    ).encode()


async def test_each_instance_is_counted_once_and_what_is_no_answer_not_at_all(
    source: NatsServer, writer: Writer
) -> None:
    name = name_of("service")

    async def answered(message: Any) -> None:
        for data in (
            answer(name, "b", 7), answer(name, "a", 1), answer(name, "b", 8), answer("other", "c"), b"{", b"[]", b"",
        ):  # fmt: skip
            await message.respond(data)

    await writer.client.subscribe(f"$SRV.STATS.{name}", cb=answered)
    await writer.client.flush()
    first, second = await service_stats(source, name, timeout=0.5)
    assert (first.id, second.id, second.endpoints[0].requests) == ("a", "b", 7)
    assert (first.name, first.version, first.started) == (name, "1.0.0", "2025-01-01T00:00:00Z")
    assert (first.endpoints[0].errors, first.endpoints[0].processing_ns, first.endpoints[0].data) == (1, 5, {"kv": 1})


async def test_a_service_without_instances_has_no_statistics_and_nobody_waits(source: NatsServer) -> None:
    assert await service_stats(source, name_of("nobody"), timeout=60) == []
    with pytest.raises(ConfigurationError, match="is no name of a NATS service"):
        await service_stats(source, "a.b")


@pytest.mark.parametrize(
    "data", [b"", b"null", b'{"name": 1, "id": "x"}', b'{"name": "x"}', b'{"name":"x","id":"y","endpoints":[1]}']
)
def test_an_answer_that_is_none_is_none(data: bytes) -> None:
    assert read_stats(data) is None
