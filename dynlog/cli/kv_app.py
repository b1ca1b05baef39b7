"""``dynlog kv``: key-value buckets on a log."""

from __future__ import annotations

import typer

from dynlog.cli.kv_buckets import buckets, compact
from dynlog.cli.kv_keys import create, delete, get, history, ls, purge, put, update
from dynlog.cli.kv_watch import watch

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def kv() -> None:
    """Key-value buckets: every change has a revision, a watcher misses none, conflicts come out the same everywhere.

    Every command takes `--log URL`, or the environment's `DYNLOG_LOG`.

    - `export DYNLOG_LOG=sqlite:///tmp/events.db`

    - `dynlog kv buckets --create settings --history 5`

    - `dynlog kv put settings model llama`

    - `dynlog kv watch settings`
    """


for command in (get, put, create, update, delete, ls, watch, history, purge, buckets, compact):
    app.command()(command)
