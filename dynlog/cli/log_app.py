"""``dynlog log``: topics and records of a log, whatever engine it lies in."""

from __future__ import annotations

import typer

from dynlog.cli.log_append import append
from dynlog.cli.log_care import backup, repair, truncate, verify
from dynlog.cli.log_compact import compact_topic
from dynlog.cli.log_copy import copy
from dynlog.cli.log_describe import describe, holders
from dynlog.cli.log_lag import lag
from dynlog.cli.log_read import read
from dynlog.cli.log_topics import create, delete, topics

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def log() -> None:
    """Topics and records of a log.

    Every command takes `--log URL`, or the environment's `DYNLOG_LOG`: `sqlite:///path/events.db` is a file on this
    host that any number of processes may use at once; `redis://host:6379/0?prefix=fleet` and
    `kafka://host:9092/fleet` are a server's, for any number of hosts (`describe` says what each of them promises).

    - `export DYNLOG_LOG=sqlite:///tmp/events.db`

    - `dynlog log create greetings`

    - `echo hello | dynlog log append greetings`

    - `dynlog log read greetings --follow`

    Exit status: 0 done (also when a long-running command was interrupted and closed in order), 1 failed, 2 wrong usage,
    URL or option, 3 done in part, 130 interrupted, 141 whoever read the output went away.
    """


for command in (
    create, topics, describe, append, read, lag, copy, truncate, holders, verify, repair, backup, delete,
):  # fmt: skip
    app.command()(command)
app.command("compact")(compact_topic)
