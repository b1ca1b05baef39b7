"""A NATS server with JetStream for one test or one test session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynlog.testing.probes import nats_answers
from dynlog.testing.process import NativeServer
from dynlog.testing.programs import find_program

PROVIDE = (
    "install nats-server (macOS: brew install nats-server; with Go: "
    "go install github.com/nats-io/nats-server/v2@latest); in a clone of dynlog `make servers` provides it"
)


class NatsServer(NativeServer):
    """nats-server on loopback; streams and buckets lie in the folder and survive `restart`."""

    name = "nats"

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:PORT``."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        program = find_program("nats-server", provide=PROVIDE)
        store = self.folder / "store"
        return [program, "--addr", "127.0.0.1", "--port", str(self.port), "--jetstream", "--store_dir", store]

    async def ready(self) -> bool:
        return await nats_answers("127.0.0.1", self.port)
