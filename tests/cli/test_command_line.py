"""What holds for every command: exit status, one line on stderr, signals, descriptors that are not there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dynlog import __version__
from dynlog.cli.interrupt import Interrupt
from dynlog.cli.run import run, serve, until_stopped
from tests.cli.conftest import Cli
from tests.cli.process import PATIENCE_S

LOG_COMMANDS = [
    "create",
    "topics",
    "describe",
    "append",
    "read",
    "truncate",
    "holders",
    "verify",
    "repair",
    "backup",
    "delete",
]
STUBBORN = """
import asyncio, sys
from dynlog.cli import interrupt, run
interrupt.GRACE_S = {grace}
async def work(stop):
    print("running", flush=True)
    await stop.wait()
    print("closing", flush=True)
    await asyncio.sleep(60)
run.serve(work)
"""


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """Leaves neither a handler nor the timer of the grace behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of shell in which `$dynlog` is the command."""
    return subprocess.run(
        ["bash", "-c", command.replace("$dynlog", f"{sys.executable} -m dynlog.cli")],
        capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | environment,
    )  # fmt: skip


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out == f"dynlog {__version__}\n"


@pytest.mark.parametrize("command", LOG_COMMANDS)
def test_the_help_of_every_command_teaches_by_examples(cli: Cli, command: str) -> None:
    done = cli("log", command, "--help")
    assert done.status == 0
    assert f"dynlog log {command}" in done.out.split("Usage:", 1)[1].split("\n", 1)[1]
    assert "--json" in done.out


def test_the_help_says_what_exit_statuses_mean(cli: Cli) -> None:
    for arguments in (["--help"], ["log", "--help"]):
        said = " ".join(cli(*arguments).out.split())
        for status in ("1 failed", "2 wrong usage", "3 done in part", "130 interrupted"):
            assert status in said


def test_help_and_version_import_no_group_and_no_engine() -> None:
    script = (
        "import sys; from dynlog.cli.app import main; main(['--help']); main(['--version']);"
        "print([m for m in sys.modules if m.startswith(('dynlog.storage', 'dynlog.router', 'dynlog.cli.log'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_looks_at_a_log_imports_no_broker_and_no_web_server() -> None:
    script = (
        "import sys; from dynlog.cli.app import main; main(['log', 'topics', '--log', 'memory://']);"
        "print(sorted({'zmq', 'fastapi', 'uvicorn', 'rich.console', 'nats'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_before_a_long_command_runs_stops_it_at_once(
    signals_restored: None, number: signal.Signals
) -> None:
    Interrupt.install()
    os.kill(os.getpid(), number)
    ended = []

    async def work(stop: asyncio.Event) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await stop.wait()
        ended.append("in order")

    serve(work)
    assert ended == ["in order"]


def test_a_short_command_that_is_interrupted_closes_and_is_known_to_be_unfinished(signals_restored: None) -> None:
    closed = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(PATIENCE_S)
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert closed == [True]


async def test_work_that_is_cut_short_has_ended_before_anything_else_goes_on() -> None:
    stop, begun, log = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            log.append("cleaned up")

    async with asyncio.TaskGroup() as group:
        cut = group.create_task(until_stopped(work(), stop))
        await begun.wait()
        stop.set()
    assert cut.result() is None
    assert log == ["cleaned up"]


def test_a_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN.format(grace=60)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"closing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130


def test_signals_are_heard_at_once_by_a_loop_that_was_about_to_wait() -> None:
    """Blocked in the main thread and taken by another, a signal interrupts no wait: as if it came just before one."""
    elsewhere = "import signal, threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    elsewhere += "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})\n"
    with subprocess.Popen([sys.executable, "-c", elsewhere + STUBBORN.format(grace=60)], stdout=-1) as process:
        assert process.stdout is not None
        deaf = threading.Timer(PATIENCE_S, process.kill)
        deaf.start()
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"closing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        deaf.cancel()


def test_closing_that_takes_too_long_is_given_up_loudly() -> None:
    command = [sys.executable, "-c", STUBBORN.format(grace=0.3)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 1
        assert b"given up" in process.stderr.read()


def test_a_reader_that_goes_away_is_no_error_to_complain_about(cli: Cli, log_url: str) -> None:
    cli("log", "create", "events")
    cli("log", "append", "events", stdin="x\n" * 20_000)
    done = shell("$dynlog log read events | head -1; echo ${PIPESTATUS[0]}", DYNLOG_LOG=log_url)
    assert done.stdout.splitlines()[1] == "141"
    assert done.stderr == ""
    done = shell("$dynlog log topics | true; echo ${PIPESTATUS[0]}", DYNLOG_LOG=log_url, PYTHONUNBUFFERED="1")
    assert (done.stdout.split()[0], done.stderr) == ("141", "")


def test_a_full_disk_under_the_output_is_an_error(cli: Cli, log_url: str) -> None:
    cli("log", "create", "events")
    done = shell("$dynlog log topics > /dev/full", DYNLOG_LOG=log_url)
    assert (done.returncode, done.stderr) == (1, "dynlog: error: No space left on device\n")


def test_closed_descriptors_lead_nowhere_and_not_into_the_log(cli: Cli, log_url: str) -> None:
    cli("log", "create", "events")
    assert shell("$dynlog log append events <&-", DYNLOG_LOG=log_url).returncode == 0
    assert shell("echo x | $dynlog log append events >&-", DYNLOG_LOG=log_url).returncode == 0
    assert shell("$dynlog log nonsense 2>&-", DYNLOG_LOG=log_url).returncode == 2
    assert shell("$dynlog log read events <&- >&- 2>&-", DYNLOG_LOG=log_url).returncode == 0
    assert cli("log", "verify").status == 0
    assert len(cli("log", "read", "events").lines) == 1


def test_diagnostics_may_be_json() -> None:
    script = (
        "import logging; from dynlog.cli.options import LogFormat;"
        "from dynlog.cli.diagnostics import write_diagnostics;"
        "write_diagnostics(LogFormat.JSON); logging.getLogger('dynlog.x').warning('two\\nlines %d', 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("warning", "dynlog.x", "two\nlines 1")
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["--help"], ["log", "--help"], ["log", "append", "--help"]])
def test_a_help_whose_reader_went_away_ends_like_every_other_output(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dynlog.cli", *command],
            stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE_S,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
