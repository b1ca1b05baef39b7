"""How often a test makes its fault, for how long, and with which choices: a soak says otherwise by the environment.

DYNLOG_ROUNDS      rounds of each test with faults (3; fewer where the test says so, because a round of it is long)
DYNLOG_OUTAGE_S    how long a server or a network is away (3)
DYNLOG_SEED        the seed that a failure printed: the same choices are made again
"""

from __future__ import annotations

import os
import random


def rounds(unless_said: int = 3) -> int:
    """How many rounds to make."""
    return int(os.environ.get("DYNLOG_ROUNDS") or unless_said)


def outage_s() -> float:
    """How long an outage lasts."""
    return float(os.environ.get("DYNLOG_OUTAGE_S") or 3)


def brief(number: int, dice: random.Random) -> float:
    """How long the outage of that round lasts: the whole time in the first of every three, at most a third else."""
    return outage_s() if number % 3 == 0 else dice.uniform(0.1, outage_s() / 3)


def seed_of() -> int:
    """The seed that was asked for, or a new one."""
    return int(os.environ.get("DYNLOG_SEED") or random.SystemRandom().randrange(1 << 32))


def dice_of(test: str) -> random.Random:
    """Chance for a test, the same for the same test and seed; prints the seed."""
    seed = seed_of()
    print(f"{test}: seed {seed}")
    return random.Random(f"{seed} {test}")
