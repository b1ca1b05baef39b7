"""Options of the commands that speak to a NATS server, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynlog.errors import MissingDependency

NatsUrl = Annotated[
    str,
    typer.Option(
        "--nats",
        envvar="DYNLOG_NATS",
        metavar="URL",
        help="The NATS server, as in nats://host:4222; user and password, or a token as the user, may stand in it.",
        show_default=False,
    ),
]
Creds = Annotated[Path | None, typer.Option("--creds", help="A NATS credentials file.", show_default=False)]
Ca = Annotated[Path | None, typer.Option("--ca", help="The authority that signed the server's certificate.")]
Cert = Annotated[Path | None, typer.Option("--cert", help="A client certificate, for TLS.")]
Key = Annotated[Path | None, typer.Option("--key", help="The key of the client certificate.")]


def check_nats_installed() -> None:
    """Raises MissingDependency where the extra is not installed."""
    try:
        import nats  # noqa: F401
    except ModuleNotFoundError:
        raise MissingDependency("NATS needs the package 'nats-py': pip install 'dynlog[nats]'") from None
