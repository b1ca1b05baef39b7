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
    """nats-server on loopback; what JetStream keeps lies in ``store``, by default within the folder.

    With ``sync_always`` what it acknowledges is on disk; by default it syncs its files every two minutes.
    """

    name = "nats"

    def __init__(
        self, folder: Path, *, port: int | None = None, store: Path | None = None, sync_always: bool = False
    ) -> None:
        super().__init__(folder, port=port)
        self._store = folder / "store" if store is None else store
        self._sync_always = sync_always

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:PORT``."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        program = find_program("nats-server", provide=PROVIDE)
        place: list[str | Path] = ["--jetstream", "--store_dir", self._store]
        if self._sync_always:
            place = ["--config", self.folder / "nats.conf"]
        return [program, "--addr", "127.0.0.1", "--port", str(self.port), *place]

    async def prepare(self) -> None:
        if self._sync_always:
            said = f'jetstream {{ store_dir: "{self._store}", sync_interval: always }}\n'
            (self.folder / "nats.conf").write_text(said, encoding="utf-8")

    async def ready(self) -> bool:
        """It listens only once its streams are restored."""
        return await nats_answers("127.0.0.1", self.port)
