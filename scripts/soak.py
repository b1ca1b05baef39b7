"""Crash tests with real processes, any number of rounds: ``python scripts/soak.py --rounds 5000``.

Each campaign of up to 50 rounds has a log and a seed of its own; a failure names the seed, keeps the log and ends the
soak with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.crash.campaign import run_campaign
from tests.crash.oracle import Violation

CAMPAIGN_ROUNDS = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="rounds in all (default 500)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the first campaign (default: a random one)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    done = kills = acknowledged = 0
    while done < options.rounds:
        rounds = min(CAMPAIGN_ROUNDS, options.rounds - done)
        folder = Path(tempfile.mkdtemp(prefix="dynlog-soak-"))
        try:
            outcome = asyncio.run(run_campaign(folder, rounds, seed))
        except Violation as error:
            print(f"FAILED after {done} rounds: {error}; the log is kept in {folder}", flush=True)
            return 1
        shutil.rmtree(folder)
        done, kills, acknowledged = done + rounds, kills + outcome.kills, acknowledged + outcome.acknowledged
        print(
            f"{done} rounds: {kills} kills, {acknowledged} acknowledged, none lost, none doubled; seed {seed}: "
            f"slowest open {outcome.slowest_open_s * 1000:.0f} ms, {outcome.seconds:.0f} s",
            flush=True,
        )
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
