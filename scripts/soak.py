"""Faults with real processes and servers, any number of rounds: ``python scripts/soak.py --rounds 5000``.

=========  ===========================================================================================================
campaign   what
=========  ===========================================================================================================
crash      writers on SQLite killed at random moments; up to 50 rounds share a log and a seed
redis      Redis killed, stopped, cut off, reset and half-open in the middle of appends, reads and commits
s3         MinIO killed, paused and cut off in the middle of puts and gets
kafka      brokers killed, paused and cut off under load; three nodes whose leader is killed
consume    members of groups killed or paused between effect and commit, on every engine; copies killed
kv         clients and servers of buckets killed, paused and cut off, and every history judged; holders of a lock killed
ingest     ingesting processes killed
migrate    migrations off NATS and mirrors, both ways, killed; the source compared
=========  ===========================================================================================================

All but the first are the tests of `make test` with DYNLOG_OUTAGE_S=30, again and again, up to 2 rounds
(DYNLOG_ROUNDS) and one DYNLOG_SEED a run.  A failure names its seed, keeps what there is to look at and ends its
campaign; the others go on, and the soak ends with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.crash.campaign import run_campaign
from tests.crash.oracle import Violation

ROOT = Path(__file__).resolve().parents[1]
CRASH = "crash"
FAULTS: Mapping[str, Sequence[str]] = {
    "redis": ["tests/faults/test_redis_faults.py"],
    "s3": ["tests/s3/test_s3_faults.py"],
    "kafka": ["tests/kafka/test_kafka_faults.py"],
    "consume": ["tests/consume", "tests/engines/test_consume_on_servers.py", "-k", "kill or once or paused"],
    "kv": ["tests/kv/linearizability/test_linearizable.py", "tests/kv/leases/test_lease_processes.py"],
    "ingest": ["tests/ingest/test_ingest_killed.py"],
    "migrate": ["tests/migrate/test_killed.py", "tests/mirror/test_kill.py"],
}
"""What pytest runs for each campaign."""
CRASH_ROUNDS, FAULT_ROUNDS = 500, 6
"""Unless the user says how many: a quarter of an hour and the better part of one."""
CAMPAIGN_ROUNDS = 50
RUN_ROUNDS = 2
"""Rounds of one pytest run: what the tests' own deadlines (120 s for Redis) allow at an outage of 30 s."""
KILL_ROUNDS = {"migrate": 10}
"""More where nothing is away for so long."""
OUTAGE_S = 30
RUN_TIMEOUT_S = 7200.0
STOP_TIMEOUT_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, help=f"rounds of each campaign (default {CRASH_ROUNDS} of {CRASH}, else {FAULT_ROUNDS})"
    )
    parser.add_argument("--seed", type=int, help="seed of each campaign's first run (default: a random one)")
    parser.add_argument("--only", default=",".join([CRASH, *FAULTS]), help="campaigns (default %(default)s)")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := sorted(set(names) - {CRASH, *FAULTS}):
        parser.error(f"no campaign is named {', '.join(unknown)}; there are {', '.join([CRASH, *FAULTS])}")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the tests take their servers with them
    failures = []
    for name in names:
        try:
            if name == CRASH:
                failure = soak_crashes(options.rounds or CRASH_ROUNDS, seed)
            else:
                failure = soak_faults(name, FAULTS[name], options.rounds or FAULT_ROUNDS, seed)
        except KeyboardInterrupt:
            failures.append("interrupted")
            break
        if failure:
            failures.append(f"FAILED {name}: {failure}")
            print(failures[-1], flush=True)
    print("\n".join(["", *failures]) if failures else f"nothing failed: {', '.join(names)}")
    return 1 if failures else 0


def soak_crashes(wanted: int, seed: int) -> str | None:
    """Kills writers on SQLite; why it failed, if it did."""
    done = kills = acknowledged = 0
    while done < wanted:
        rounds = min(CAMPAIGN_ROUNDS, wanted - done)
        folder = Path(tempfile.mkdtemp(prefix="dynlog-soak-"))
        try:
            outcome = asyncio.run(run_campaign(folder, rounds, seed))
        except Violation as error:
            return f"after {done} rounds: {error}; the log is kept in {folder}"
        shutil.rmtree(folder)
        done, kills, acknowledged = done + rounds, kills + outcome.kills, acknowledged + outcome.acknowledged
        print(
            f"crash: {done} rounds: {kills} kills, {acknowledged} acknowledged, none lost, none doubled; seed {seed}; "
            f"slowest open {outcome.slowest_open_s * 1000:.0f} ms, {outcome.seconds:.0f} s",
            flush=True,
        )
        seed += 1
    return None


def soak_faults(name: str, tests: Sequence[str], wanted: int, seed: int) -> str | None:
    """Runs the tests until so many rounds were made; why it failed, if it did."""
    folder = Path(tempfile.mkdtemp(prefix=f"dynlog-soak-{name}-"))
    most = KILL_ROUNDS.get(name, RUN_ROUNDS)
    for run in itertools.count():
        done, started = run * most, time.monotonic()
        if done >= wanted:
            break
        rounds = min(most, wanted - done)
        settings = {
            "DYNLOG_SEED": str(seed + run), "DYNLOG_ROUNDS": str(rounds), "DYNLOG_KILL_ROUNDS": str(rounds),
            "DYNLOG_OUTAGE_S": str(OUTAGE_S), "DYNLOG_SERVERS": "native", "DYNLOG_NO_SKIPS": "1",
        }  # fmt: skip
        print(f"{name}: rounds {done + 1} to {done + rounds} of {wanted}, seed {seed + run}", flush=True)
        output = folder / "output"
        status = _pytest([*tests, f"--basetemp={folder / 'tmp'}"], settings, output)
        text = output.read_text(encoding="utf-8", errors="replace")
        for line in re.findall(r"^.*\bseed \d+.*$|^FAILED .*|^ERROR .*", text, re.MULTILINE):
            print(f"  {line}")
        if status != 0:
            again = " ".join(f"{key}={value}" for key, value in settings.items())
            return (
                f"after {done} rounds with seed {seed + run}; all that was printed is in {output}; to have it again:\n"
                f"  {again} {shlex.join(['.venv/bin/python', '-m', 'pytest', '--allow-slow', *tests])}"
            )
        (summary,) = re.findall(r"^.*\b(\d+ passed.* in .*)$", text, re.MULTILINE)[-1:] or ["passed"]
        print(f"  {summary.strip('= ')}, {time.monotonic() - started:.0f} s", flush=True)
    shutil.rmtree(folder)
    return None


def _pytest(arguments: Sequence[str], settings: Mapping[str, str], output: Path) -> int:
    """The status of a pytest of its own; one that takes hours is interrupted and counts as failed."""
    command = [sys.executable, "-m", "pytest", "-v", "-s", "--allow-slow", "-p", "no:cacheprovider", *arguments]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait(RUN_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            # As by Ctrl-C, so that it takes its servers with it.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            return 1


if __name__ == "__main__":
    sys.exit(main())
