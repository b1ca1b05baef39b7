"""The wire suite on all six wires, and on TCP with TLS."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from tests.wires.wire_suite import WireSuite


class TestInproc(WireSuite):
    scheme = "inproc"

    def address(self, tmp_path: Path) -> str:
        return f"inproc://{uuid4().hex}"

    nowhere = address


class TestUds(WireSuite):
    scheme = "uds"

    def address(self, tmp_path: Path) -> str:
        tmp_path.mkdir(exist_ok=True)
        return f"uds://{tmp_path}/{uuid4().hex[:6]}"

    nowhere = address


class TestTcp(WireSuite):
    scheme = "tcp"

    def address(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:0"

    def nowhere(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:1"


class TestTls(WireSuite):
    scheme = "tcp"

    @pytest.fixture(autouse=True)
    def _certificates(self, certificates: Path) -> None:
        self.folder = certificates

    def address(self, tmp_path: Path) -> str:
        return f"tcp://127.0.0.1:0?cert={self.folder}/server.crt&key={self.folder}/server.key"

    def dialled(self, address: str) -> str:
        return f"{address}?ca={self.folder}/ca.crt"

    def nowhere(self, tmp_path: Path) -> str:
        return f"tcp://127.0.0.1:1?ca={self.folder}/ca.crt"


class TestZmq(WireSuite):
    scheme = "zmq"
    sees_death = False

    def address(self, tmp_path: Path) -> str:
        return "zmq://127.0.0.1:0"

    def nowhere(self, tmp_path: Path) -> str:
        return "zmq://127.0.0.1:1"


class TestSse(WireSuite):
    scheme = "sse"
    sees_death = False
    reads_on = False  # a POST that finds the port closed breaks the channel

    def address(self, tmp_path: Path) -> str:
        return "sse://127.0.0.1:0/dynlog"

    def nowhere(self, tmp_path: Path) -> str:
        return "sse://127.0.0.1:1/dynlog"


class TestNats(WireSuite):
    scheme = "nats"
    sees_death = False

    @pytest.fixture(autouse=True)
    def _server(self, nats_server: RunningServer) -> None:
        self.nats = nats_server.url

    def address(self, tmp_path: Path) -> str:
        return f"{self.nats}/dynlog.{uuid4().hex}"

    nowhere = address
