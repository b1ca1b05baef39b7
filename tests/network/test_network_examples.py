"""The examples run as they stand and print what they promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.repository import REPOSITORY


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("echo_service", ["over uds: 9900", "over tcp: 9900", "over uds: 9900"]),
        ("token_worker", [*(f"token-{number}" for number in range(5)), "the engine stopped for acme after few tokens"]),
        (
            "fleet_stats",
            [
                *(f"fleet/backend/{number} {{'free_blocks': {100 * number}}}" for number in range(3)),
                "fleet/backend/3 is missing: DeadlineExceeded",
            ],
        ),
    ],
)
def test_an_example_prints_what_it_promises(name: str, lines: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "network" / f"{name}.py"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[: len(lines)] == lines
    assert done.stderr == ""
