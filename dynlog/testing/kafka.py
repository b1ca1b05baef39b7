"""A real Kafka for tests: one node or three, KRaft, on loopback; scripts/servers/kafka.sh provides the program."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dynlog.testing.process import NativeServer, ServerNotAvailable, free_port

_PROBE_S = 2.0
_FORMAT_S = 60.0


class KafkaServer(NativeServer):
    """One Kafka node, broker and controller in one process.

    ``voters`` (node id to controller port) makes it one of several; ``settings`` go into its server.properties.
    """

    name = "kafka"

    def __init__(
        self,
        folder: Path,
        program: Path,
        *,
        port: int | None = None,
        node: int = 1,
        cluster_id: str | None = None,
        voters: Mapping[int, int] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self._program = program
        self._node = node
        self._cluster_id = cluster_id or new_cluster_id()
        self._voters = voters or {node: free_port()}
        self._settings = settings or {}

    @property
    def node(self) -> int:
        """Its node id."""
        return self._node

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [self._program, "kafka.Kafka", self._properties]

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    async def prepare(self) -> None:
        """Writes server.properties and formats the data folder."""
        if shutil.which("java") is None:
            raise ServerNotAvailable("Kafka needs java on PATH: install OpenJDK 17 or newer")
        copies = min(len(self._voters), 3)
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self._node),
            "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port}" for node, port in self._voters.items()),
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._voters[self._node]}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "true",  # so that a client that relies on its being off is found out
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(min(copies, 2)),
            "offsets.topic.replication.factor": str(copies),
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(min(copies, 2)),
            "transaction.state.log.num.partitions": "1",
            "log.index.size.max.bytes": "65536",
            "group.initial.rebalance.delay.ms": "0",
            # A dead node is replaced after 3 s, not 9: tests wait for it.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **self._settings,
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        format_ = [self._program, "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", self._properties]
        process = await asyncio.create_subprocess_exec(
            *map(str, format_), "--ignore-formatted", cwd=self.folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_FORMAT_S):
                output, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise ServerNotAvailable(f"kafka's folder could not be formatted:\n{output.decode(errors='replace')}")

    async def ready(self) -> bool:
        """Whether the broker, not only its socket, is up: it answers ApiVersions and says so in its log."""
        try:
            async with asyncio.timeout(_PROBE_S):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            return False
        return True


def new_cluster_id() -> str:
    """A cluster id as Kafka writes them; none that a command line takes for an option."""
    return urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


@asynccontextmanager
async def kafka_cluster(folder: Path, program: Path, nodes: int = 3) -> AsyncIterator[list[KafkaServer]]:
    """Several nodes that are one cluster, every topic on (up to) three of them; stopped at the end of the block."""
    cluster_id, voters = new_cluster_id(), {node: free_port() for node in range(1, nodes + 1)}
    servers = [
        KafkaServer(folder / f"node{node}", program, node=node, cluster_id=cluster_id, voters=voters)
        for node in voters
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_exit(server.__aexit__)
        # Together: a controller is only ready once a majority is there.
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
        yield servers
