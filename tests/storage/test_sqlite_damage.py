"""Every byte of a small log, damaged: what a read returns is what was stored, or the damage is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.storage.damage import BELL, DB, WAL, Case, build, cuts, flips, violations

pytestmark = pytest.mark.timeout(600)
SEED = random.randrange(1 << 32)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    build(folder, killed=False)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    build(folder, killed=True)
    return folder


def check(folder: Path, cases: list[Case]) -> None:
    found, named = violations(folder, cases)
    assert not found, f"seed {SEED}, {len(found)} of {len(cases)}:\n" + "\n".join(found[:20])
    assert named, "none of the damage was noticed: the sweep does not reach what it should"


def test_a_bit_flip_at_every_byte_of_a_closed_log_changes_nothing_or_is_named(closed: Path) -> None:
    rng = random.Random(SEED)
    check(closed, flips(closed, DB, rng) + flips(closed, BELL, rng))


def test_a_bit_flip_at_every_byte_of_a_killed_log_changes_nothing_or_is_named(killed: Path) -> None:
    rng = random.Random(SEED)
    check(killed, flips(killed, WAL, rng))


def test_a_bit_flip_below_a_write_ahead_log_changes_nothing_or_is_named(killed: Path) -> None:
    rng = random.Random(SEED)
    check(killed, flips(killed, DB, rng) + flips(killed, BELL, rng))


def test_a_cut_at_every_byte_of_a_closed_log_is_named(closed: Path) -> None:
    check(closed, cuts(closed, DB, 3) + cuts(closed, BELL))


def test_a_cut_at_every_byte_of_a_killed_log_changes_nothing_or_is_named(killed: Path) -> None:
    check(killed, cuts(killed, WAL) + cuts(killed, DB, 5) + cuts(killed, BELL, 16))
