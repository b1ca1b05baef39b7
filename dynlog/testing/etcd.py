"""A single-member etcd for a test: what Dynamo keeps its instances and model cards in where it does not use dynlog."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from dynlog.testing.probes import etcd_answers
from dynlog.testing.process import NativeServer, free_port
from dynlog.testing.programs import find_program

PROVIDE = (
    "install etcd 3.4 or newer (macOS: brew install etcd; Debian: apt-get install etcd-server); "
    "in a clone of dynlog `make servers` provides it"
)


class EtcdServer(NativeServer):
    """etcd on loopback over the folder, with its JSON gateway; every acknowledged write is on disk, as by default.

    ``tls`` is a folder with ``server.crt`` and ``server.key``: the server then speaks TLS and nothing else.
    """

    name = "etcd"

    def __init__(self, folder: Path, *, port: int | None = None, tls: Path | None = None) -> None:
        super().__init__(folder, port=port)
        self._tls = tls
        self._peers = free_port()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT`` or, with TLS, ``https://...``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        peers = f"http://127.0.0.1:{self._peers}"
        certificates: list[str | Path] = []
        if self._tls is not None:
            certificates = ["--cert-file", self._tls / "server.crt", "--key-file", self._tls / "server.key"]
        return [
            find_program("etcd", provide=PROVIDE), "--name", "test", "--data-dir", self.folder / "data",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"test={peers}",
            "--log-level", "warn", *certificates,
        ]  # fmt: skip

    async def ready(self) -> bool:
        """It has a leader, itself, and so answers."""
        if self._tls is None:
            return await etcd_answers("127.0.0.1", self.port)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it is up, not whose it is
        return await etcd_answers("127.0.0.1", self.port, context)
