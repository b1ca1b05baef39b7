"""What cannot be undone is asked about on a terminal, and needs ``--yes`` where nobody could answer."""

from __future__ import annotations

import sys

import typer

from dynlog.cli.output import say
from dynlog.cli.run import interruptible
from dynlog.errors import ConfigurationError


def check_may_ask(yes: bool, what: str) -> None:
    """Raises ConfigurationError if it was neither confirmed by ``--yes`` nor can be asked about."""
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(f"{what} cannot be undone: confirm with --yes")


def ask(question: str, otherwise: str) -> None:
    """Returns if the answer is yes; else says what came of it, and the command ends with status 1."""
    with interruptible():
        agreed = typer.confirm(question, err=True)
    if not agreed:
        say(otherwise)
        raise typer.Exit(1)
