"""The command tree: groups are imported when one of their commands is called, so that every command starts fast.

A group that is missing from the installation is missing from the help, nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from dynlog.cli.app import MISUSED, complain, one_line, report
from dynlog.cli.diagnostics import write_diagnostics
from dynlog.cli.options import LogFormat


class _Home(NamedTuple):
    """Where a group lies: a module and its `typer.Typer` (a group) or function (a single command)."""

    module: str
    attribute: str
    summary: str


GROUPS: Mapping[str, _Home] = {
    "log": _Home("dynlog.cli.log_app", "app", "Topics and records: create, append, read, describe, truncate, verify."),
    "group": _Home("dynlog.cli.group_app", "app", "Consumer groups: members, lag, seek, remove."),
    "dlq": _Home("dynlog.cli.dlq_app", "app", "Dead letters: list, show, replay, drop."),
    "kv": _Home("dynlog.cli.kv_app", "app", "Key-value buckets: get, put, create, update, delete, watch, history."),
    "lease": _Home("dynlog.cli.leases", "app", "Leases in key-value buckets: who holds which, and with which keys."),
    "router": _Home("dynlog.cli.router_app", "app", "A KV router whose state is rebuilt from a log: ingest, serve."),
    "objects": _Home("dynlog.cli.objects_app", "app", "Objects and folders: put, get, ls, head, rm, gc."),
    "entities": _Home("dynlog.cli.entities", "entities", "Who is there: the fleet's entities as a tree."),
    "net": _Home("dynlog.cli.net_app", "app", "The network by hand: serve, call, ping, stats, switch."),
    "discovery": _Home("dynlog.cli.discovery_app", "app", "Entities that a fleet keeps in etcd, taken over."),
    "mirror": _Home("dynlog.cli.mirror_app", "app", "NATS and a log kept alike while components move over."),
    "migrate": _Home("dynlog.cli.migrate_app", "app", "The way off NATS: plan, apply, verify, status, rollback."),
    "demo": _Home("dynlog.cli.demo", "demo", "A fleet, a router that is killed, and its state back from the log."),
}


class LazyGroup(TyperGroup):
    """Knows its commands by name and summary, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, home in GROUPS.items() if importlib.util.find_spec(home.module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Enough of the command for the help."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return TyperCommand(cmd_name, help=GROUPS[cmd_name].summary)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # typer would make status 1 of it
            raise SystemExit(report(error)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and _load(str(name)), rest


def _load(name: str) -> Any:
    home = GROUPS[name]
    found = getattr(importlib.import_module(home.module), home.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        single.command(name=name)(found)
        found = single
    command: Any = typer.main.get_command(found)
    command.name = name
    return command


def _version(asked: bool) -> None:
    if asked:
        from dynlog import __version__

        print(f"dynlog {__version__}")
        raise typer.Exit


root = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@root.callback()
def dynlog(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Event-sourced, log-based messaging for NVIDIA Dynamo fleets: the log is the truth, state is a fold over it.

    Try `dynlog demo`, then `dynlog log --help` and `dynlog router --help`.

    Exit status: 0 done (also a long-running command that was interrupted and closed in order), 1 failed, 2 wrong usage,
    URL or option, 3 done in part, 130 interrupted, 141 whoever read the output went away.
    Errors are one line on stderr; `DYNLOG_TRACEBACK=1` shows where they come from.
    """


# click's own or the copy of it in newer typers, which have no public name for it in common.
_USAGE_ERROR: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def invoke(arguments: Sequence[str]) -> int:
    """Runs one command line; usage errors are one line and status 2, everything else is raised."""
    command: Any = typer.main.get_command(root)
    write_diagnostics(LogFormat.TEXT, logging.WARNING)  # of commands that have no option for it
    try:
        status = command.main(args=list(arguments), prog_name="dynlog", standalone_mode=False)
    except _USAGE_ERROR as error:
        context = getattr(error, "ctx", None)
        message = error.format_message()
        if not message.strip():
            return MISUSED  # a group without a command: its help was printed instead
        where = context.command_path if context is not None else "dynlog"
        complain(f"{one_line(message).rstrip('.')} (see '{where} --help')")
        return MISUSED
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as error:  # rich and typer make status 1 of a reader of the help that went away
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    return status if isinstance(status, int) else 0
