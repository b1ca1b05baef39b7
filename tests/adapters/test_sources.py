"""Sources as users write them: URLs and YAML, every option checked; the set follows its file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from dynlog.adapters import source_set
from dynlog.adapters.source_set import VllmSources
from dynlog.adapters.sources import parse_source, read_sources
from dynlog.errors import ConfigurationError
from dynlog.ingest_items import NoticeKind
from dynlog.kvevents import Kind
from dynlog.log import Log
from dynlog.open import open_log
from tests.adapters.fake_engine import FakeEngine, stored
from tests.adapters.harness import (
    DEADLINE_S,
    TOPIC,
    Watcher,
    everything,
    free_ports,
    held,
    holds,
    ingesting,
    kinds,
)


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC)
        yield opened


def test_a_url_names_everything_and_the_rank_shifts_both_ports() -> None:
    source = parse_source("tcp://gpu-1:5557?replay=tcp://gpu-1:5657&worker_id=7&dp_rank=2&topic=kv")
    assert (source.connect_to, source.replay_at) == ("tcp://gpu-1:5559", "tcp://gpu-1:5659")
    assert (source.worker_id, source.dp_rank, source.topic) == (7, 2, "kv")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("gpu-1:5557", "not a URL"),
        ("tcp://gpu-1", "address: .*not tcp://HOST:PORT"),
        ("http://gpu-1:5557", "address: .*not tcp://HOST:PORT"),
        ("tcp://gpu-1:5557?replya=tcp://gpu-1:1", "unknown option 'replya'"),
        ("tcp://gpu-1:5557?worker_id=seven", "worker_id='seven'"),
        ("tcp://gpu-1:5557?worker_id=-1", "worker_id: "),
        ("tcp://gpu-1:5557?worker_id=18446744073709551616", "worker_id: "),
        ("tcp://gpu-1:5557?worker_id=1&worker_id=2", "'worker_id' stands twice"),
        ("tcp://gpu-1:5557?replay=gpu-1", "replay: "),
    ],
)
def test_a_url_that_does_not_fit_is_refused_naming_the_option(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse_source(url)


def test_a_file_lists_urls_and_mappings(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(
        "- tcp://a:1?worker_id=1\n"
        "- address: tcp://b:2\n  replay: tcp://b:3\n  worker_id: 18446744073709551615\n  dp_rank: 1\n"
    )  # fmt: skip
    first, second = read_sources(path)
    assert (first.worker_id, second.worker_id, second.replay_at) == (1, 2**64 - 1, "tcp://b:4")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "cannot be read"),
        ("a: b", "a list of sources is needed"),
        ("", "a list of sources is needed"),
        ("- 5", "entry 1"),
        ("- address: tcp://a:1\n  worker: 5", "entry 1: worker: "),
        ("- address: tcp://a:1\n  worker_id: true", "entry 1: worker_id: "),
        ("- address: tcp://a:1\n  worker_id: '5'", "entry 1: worker_id: "),
        ("- replay: tcp://a:1", "entry 1: address: "),
        ("- tcp://a:1?worker_id=1\n- tcp://b:1?worker_id=1", "entry 2: worker 1 rank 0 stands there twice"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_naming_the_entry(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=named):
        read_sources(path)


async def test_a_source_without_a_worker_id_and_a_rank_named_twice_are_refused(log: Log) -> None:
    with pytest.raises(ConfigurationError, match="worker_id=N is needed"):
        await VllmSources(log, TOPIC, [parse_source("tcp://a:1")]).__aenter__()
    twice = [parse_source("tcp://a:1?worker_id=1"), parse_source("tcp://b:1?worker_id=1")]
    with pytest.raises(ConfigurationError, match="worker 1 rank 0 is named by two sources"):
        await VllmSources(log, TOPIC, twice).__aenter__()


def entry(ports: list[int], worker_id: int) -> str:
    return f"- tcp://127.0.0.1:{ports[0]}?replay=tcp://127.0.0.1:{ports[1]}&worker_id={worker_id}\n"


async def test_entries_that_come_are_read_and_entries_that_go_are_removed_from_the_fleet(
    log: Log, tmp_path: Path
) -> None:
    path, first, second = tmp_path / "sources.yaml", free_ports(), free_ports()
    path.write_text(entry(first, 1))
    async with FakeEngine(*first) as one, FakeEngine(*second) as two, ingesting(log, sources_file=path):
        one.publish(stored(1))
        two.publish(stored(2))
        await Watcher(log).until(holds(1, rank=(1, 0)))
        path.write_text(entry(first, 1) + entry(second, 2))
        await Watcher(log).until(holds(2, rank=(2, 0)))
        path.write_text(entry(second, 2))
        events = await Watcher(log).until(lambda seen: Kind.WORKER_REMOVED in kinds(seen))
    assert held(events) == {(2, 0): {2}}


async def test_a_broken_file_keeps_the_old_set_and_is_reported(log: Log, tmp_path: Path) -> None:
    path, ports = tmp_path / "sources.yaml", free_ports()
    path.write_text(entry(ports, 1))
    async with FakeEngine(*ports) as engine, ingesting(log, sources_file=path) as running:
        engine.publish(stored(1))
        await Watcher(log).until(holds(1, rank=(1, 0)))
        path.write_text("- tcp://127.0.0.1")
        block = 1
        while not running.stats.notices[NoticeKind.SOURCES]:
            block += 1
            engine.publish(stored(block))
            await Watcher(log).until(holds(*range(1, block + 1), rank=(1, 0)))
    assert Kind.WORKER_REMOVED not in kinds(await everything(log))


async def test_an_entry_that_went_away_while_no_ingest_ran_is_removed_by_the_next_one_once(
    log: Log, tmp_path: Path
) -> None:
    path, ports = tmp_path / "sources.yaml", free_ports()
    path.write_text(entry(ports, 1))
    async with FakeEngine(*ports) as engine:
        async with ingesting(log, sources_file=path):
            engine.publish(stored(1))
            await Watcher(log).until(holds(1, rank=(1, 0)))
        path.write_text("[]")
        for _ in range(2):
            async with ingesting(log, sources_file=path):
                await Watcher(log).until(lambda seen: Kind.WORKER_REMOVED in kinds(seen))
    assert kinds(await everything(log)) == [Kind.STORED, Kind.WORKER_REMOVED]


async def test_an_entry_that_comes_back_while_its_engine_goes_on_is_read_from_the_replay_again(
    log: Log, tmp_path: Path
) -> None:
    path, ports = tmp_path / "sources.yaml", free_ports()
    path.write_text(entry(ports, 1))
    async with FakeEngine(*ports) as engine, ingesting(log, sources_file=path):
        for again in range(1, 4):
            engine.publish(stored(again))
            await Watcher(log).until(holds(*range(1, again + 1), rank=(1, 0)))
            path.write_text("[]")
            await Watcher(log).until(lambda seen, times=again: kinds(seen).count(Kind.WORKER_REMOVED) == times)  # type: ignore[misc]
            path.write_text(entry(ports, 1))
        await Watcher(log).until(holds(1, 2, 3, rank=(1, 0)))
        path.write_text("[]")
        events = await Watcher(log).until(lambda seen: kinds(seen).count(Kind.WORKER_REMOVED) == 4)
    assert held(events) == {}


class SlowWriter:
    """Writes a file a piece further before each of the next looks at it; it is valid YAML at every moment."""

    def __init__(self, path: Path, whole: str, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._whole, self._pieces = path, whole, pieces
        self._look = source_set._stamp
        self._loop = asyncio.get_running_loop()
        self._written = 0
        self.done = asyncio.Event()
        monkeypatch.setattr(source_set, "_stamp", self._stamp)

    def _stamp(self, path: Path) -> tuple[int, int, int] | None:
        self._written += 1
        if self._written <= self._pieces:
            self._path.write_text("[]" if self._written == 1 else "#" * self._written + "\n[]")
        elif self._written == self._pieces + 1:
            self._path.write_text(self._whole)
        elif self._written == self._pieces + 6:
            self._loop.call_soon_threadsafe(self.done.set)
        return self._look(path)


async def test_a_file_that_is_being_written_is_adopted_once_it_stands_still_and_removes_nobody_meanwhile(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first, second = tmp_path / "sources.yaml", free_ports(), free_ports()
    path.write_text(entry(first, 1))
    async with FakeEngine(*first) as one, FakeEngine(*second) as two, ingesting(log, sources_file=path):
        one.publish(stored(1))
        two.publish(stored(2))
        await Watcher(log).until(holds(1, rank=(1, 0)))
        async with asyncio.timeout(DEADLINE_S):
            await SlowWriter(path, entry(first, 1) + entry(second, 2), 9, monkeypatch).done.wait()
        await Watcher(log).until(holds(2, rank=(2, 0)))
    assert kinds(await everything(log)) == [Kind.STORED, Kind.STORED]


async def test_a_file_that_is_half_written_when_an_ingest_begins_removes_nobody(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ports = tmp_path / "sources.yaml", free_ports()
    path.write_text(entry(ports, 1))
    async with FakeEngine(*ports) as engine:
        async with ingesting(log, sources_file=path):
            engine.publish(stored(1))
            await Watcher(log).until(holds(1, rank=(1, 0)))
        writer = SlowWriter(path, entry(ports, 1), 9, monkeypatch)
        path.write_text("[]")
        async with ingesting(log, sources_file=path), asyncio.timeout(DEADLINE_S):
            await writer.done.wait()
            engine.publish(stored(2))
            await Watcher(log).until(holds(1, 2, rank=(1, 0)))
    assert kinds(await everything(log)) == [Kind.STORED, Kind.STORED]


async def test_a_file_that_is_renamed_into_place_is_adopted(log: Log, tmp_path: Path) -> None:
    path, first, second = tmp_path / "sources.yaml", free_ports(), free_ports()
    path.write_text(entry(first, 1))
    async with FakeEngine(*first) as one, FakeEngine(*second) as two, ingesting(log, sources_file=path):
        one.publish(stored(1))
        two.publish(stored(2))
        await Watcher(log).until(holds(1, rank=(1, 0)))
        (tmp_path / "new.yaml").write_text(entry(second, 2))
        (tmp_path / "new.yaml").rename(path)
        events = await Watcher(log).until(lambda seen: held(seen) == {(2, 0): {2}})
    assert held(events) == {(2, 0): {2}}


def test_a_rank_that_shifts_a_port_out_of_range_is_refused_before_anything_connects() -> None:
    with pytest.raises(ConfigurationError, match=r"dp_rank 60000 .* port 67000"):
        parse_source("tcp://127.0.0.1:7000?worker_id=1&dp_rank=60000")
    with pytest.raises(ConfigurationError, match=r"dp_rank 2 .* port 65536"):
        parse_source("tcp://127.0.0.1:7000?worker_id=1&dp_rank=2&replay=tcp://127.0.0.1:65534")


def test_a_bad_entry_of_a_sources_file_is_named_once_and_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("- 3\n")
    with pytest.raises(ConfigurationError) as error:
        read_sources(path)
    assert str(error.value) == f"{path}: entry 1: a URL or a mapping with 'address' is needed, not int"
    path.write_text("- address: http://engine:1\n")
    with pytest.raises(ConfigurationError) as error:
        read_sources(path)
    assert str(error.value) == f"{path}: entry 1: address: 'http://engine:1' is not tcp://HOST:PORT or ipc://PATH"
    with pytest.raises(ConfigurationError) as error:
        read_sources(tmp_path / "missing.yaml")
    assert str(error.value) == f"{tmp_path}/missing.yaml: the sources file cannot be read: No such file or directory"
