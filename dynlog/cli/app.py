"""Every outcome becomes an exit status and at most one line on stderr; a traceback is only shown when asked for.

    0    done; also a long-running command that was interrupted and closed in order
    1    it failed: the log, the objects or the input say no
    2    it cannot work as it was written: usage, URL, option
    3    it was done in part; what is missing, and why, is on stderr
    130  interrupted (a short command, or a second signal)
    141  whoever read the output went away

``DYNLOG_TRACEBACK=1`` shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from dynlog.cli.interrupt import Interrupt
from dynlog.errors import ConfigurationError, DynlogError

DONE, FAILED, MISUSED, PARTIAL, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141


class PartialSuccess(DynlogError):
    """Some of what was asked for was done; the message says what was not, and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status; never raises."""
    _open_what_is_closed()
    Interrupt.install()  # before the slow imports, so that a signal is never lost between them and the command
    try:
        try:
            from dynlog.cli.root import invoke

            return invoke(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BaseException as error:
        return report(error)


def _open_what_is_closed() -> None:
    """Descriptors 0 to 2 that the caller closed lead nowhere: else the log's files would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - open until the process ends


def entry() -> int:
    """`main` as a process: a signal that comes once the outcome is known no longer changes it."""
    status = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return status


def report(error: BaseException) -> int:
    """Says what went wrong in one line on stderr and returns the exit status."""
    error = _first(error)
    if isinstance(error, BrokenPipeError):
        # The interpreter flushes stdout once more at its end; nobody is to hear about that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UNREAD
    if os.environ.get("DYNLOG_TRACEBACK", "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DONE if error.code is None else FAILED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, PartialSuccess):
        complain(str(error))
        return PARTIAL
    if isinstance(error, ConfigurationError):
        complain(str(error))
        return MISUSED
    if isinstance(error, DynlogError):
        complain(str(error))
    elif isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
    else:
        complain(f"{type(error).__name__}: {error} (this is a defect of dynlog; DYNLOG_TRACEBACK=1 shows where)")
    return FAILED


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    print(f"dynlog: error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text with line breaks and control characters made visible: names come from files and may hold anything."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in joined)


def _first(error: BaseException) -> BaseException:
    """What went wrong first: the others of a group are what it took down with it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
