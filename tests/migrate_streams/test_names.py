"""Names and places: what a thing of NATS is called in a log, and in which partition a message lies."""

from __future__ import annotations

import pytest

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.migrations.nats.spread import spread_of
from dynlog.migrations.nats.targets import MOST_NAMED, Refusals, mistaken, target_name, targets_of
from dynlog.partition import partition_of
from dynlog.topics import check_name


def message(subject: str, headers: dict[str, list[str]] | None = None) -> StreamMessage:
    return StreamMessage(1, subject, headers, b"", 0)


@pytest.mark.parametrize("name", ["ORDERS", "a_b", "a-b", "_x", "-x", "größe", "x" * 255, "$MQTT_sess", "a:b"])
def test_every_name_has_a_target_that_a_log_takes(name: str) -> None:
    assert check_name("topic", target_name(name, 200))


def test_a_name_that_a_log_takes_stays_as_it_is() -> None:
    assert targets_of(["ORDERS", "a_b", "c.d"], 200) == {"ORDERS": "ORDERS", "a_b": "a_b", "c.d": "c.d"}


def test_long_names_that_begin_alike_stay_apart() -> None:
    names = ["x" * 250 + end for end in "ab"]
    assert mistaken(targets_of(names, 200)) == {}


def test_names_that_differ_only_in_what_slugs_replace_have_one_target_and_name_each_other() -> None:
    targets = targets_of(["a_b", "a-b", "a b", "ab"], 200)
    assert targets["a_b"] == targets["a-b"] == targets["a b"] == "a-b"
    assert mistaken(targets)["a_b"] == ["a-b", "a b"]
    assert "ab" not in mistaken(targets)


def test_a_rule_says_which_part_of_a_message_decides() -> None:
    assert spread_of("subject", 8)(message("a.b.c")) == partition_of(b"a.b.c", 8)
    assert spread_of("token:2", 8)(message("a.b.c")) == partition_of(b"b", 8)
    assert spread_of("token:9", 8)(message("a.b.c")) == partition_of(b"", 8)
    assert spread_of("header:Tenant", 8)(message("s", {"Tenant": ["t1", "t2"]})) == partition_of(b"t1", 8)
    assert spread_of("header:Tenant", 8)(message("s")) == partition_of(b"", 8)
    assert spread_of(None, 1)(message("s")) == 0


def test_more_subjects_than_are_remembered_change_nothing() -> None:
    spread = spread_of("subject", 16)
    subjects = [f"s.{number}" for number in range(20_000)]
    assert [spread(message(subject)) for subject in subjects] == [partition_of(s.encode(), 16) for s in subjects]


def test_of_very_many_refusals_a_thousand_are_named_and_the_rest_counted() -> None:
    refused = Refusals()
    for number in range(MOST_NAMED + 7):
        refused.add(f"message {number}", "too large")
    assert len(refused) == MOST_NAMED + 7
    assert refused.all()[-1].name == "7 more"
    assert len(refused.all()) == MOST_NAMED + 1
