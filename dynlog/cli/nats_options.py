"""Options of the commands that speak to a NATS server, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynlog.errors import MissingDependency
from dynlog.url import shown


def check_nats_url(text: str) -> str:
    """Typer callback: a URL, and not a host alone."""
    if "://" not in text:
        raise typer.BadParameter(f"{shown(text)!r} is not a URL: write nats://HOST:4222, or tls://HOST:4222")
    return text


NatsUrl = Annotated[
    str,
    typer.Option(
        "--nats",
        envvar="DYNLOG_NATS",
        metavar="URL",
        callback=check_nats_url,
        help="The NATS server, as in nats://host:4222 or tls://user:password@host:4222; a token stands as the user.",
        show_default=False,
    ),
]
Creds = Annotated[Path | None, typer.Option("--creds", metavar="FILE", help="NATS credentials file (JWT and seed).")]
Ca = Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="NATS: certificates of authorities, PEM.")]
Cert = Annotated[Path | None, typer.Option("--cert", metavar="FILE", help="NATS: our own certificate, PEM.")]
Key = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="NATS: the key of our certificate, PEM.")]


def check_nats_installed() -> None:
    """Raises MissingDependency where the extra is not installed."""
    try:
        import nats  # noqa: F401
    except ModuleNotFoundError:
        raise MissingDependency("NATS needs the package 'nats-py': pip install 'dynlog[nats]'") from None
