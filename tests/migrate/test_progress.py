"""How far an apply is: names and bytes count alike, and the time that is left follows from both."""

from __future__ import annotations

import pytest

from dynlog.cli.migrate_progress import Meter, showing
from dynlog.migrations.nats.contract import Item

MANY = Item(kind="objects", source="many", target="t", count=100, bytes=1000)
LARGE = Item(kind="objects", source="large", target="t", count=1, bytes=9000)


def test_the_share_that_is_done_is_of_names_and_of_bytes() -> None:
    meter = Meter([MANY, LARGE])
    assert meter.share == 0
    meter.tell(MANY, 100, 1000)
    assert meter.share == pytest.approx((100 / 101 + 0.1) / 2)
    meter.tell(LARGE, 0, 4000)
    assert "100 of 101, 4.9 KiB of 9.8 KiB" in meter.text
    assert meter.text.endswith("s left")
    meter.tell(LARGE, 1, 9000)
    assert meter.share == 1
    assert "left" not in meter.text


def test_a_stream_is_measured_by_its_messages_and_what_is_compared_by_its_names() -> None:
    stream = Item(kind="streams", source="s", target="t", count=100, bytes=9000)
    meter = Meter([MANY, stream])
    meter.tell(stream, 100, 700)
    meter.tell(MANY, 100, 1000)
    assert (meter.share, " of 9" in meter.text) == (1, False)
    comparing = Meter([MANY], by_bytes=False)
    comparing.tell(MANY, 100, 0)
    assert comparing.share == 1


def test_more_than_was_planned_is_never_more_than_all() -> None:
    meter = Meter([MANY])
    meter.tell(MANY, 300, 5000)
    assert meter.share == 1


def test_a_migration_of_nothing_is_done() -> None:
    assert Meter([Item(kind="objects", source="empty", target="t")]).share == 1


def test_where_nobody_looks_a_line_comes_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.cli.migrate_progress.PROGRESS_EVERY_S", 0.0)
    with showing([MANY], "moving") as told:
        told(MANY, 50, 500)
    assert capsys.readouterr().err.startswith("dynlog: moving many: 50 of 100, 500 B of 1000 B")
