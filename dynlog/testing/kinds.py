"""The five servers that tests can have: as a native program, and as a container of the official image.

Everything that differs between them is a row of `KINDS`; what starts and stops them knows no names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from dynlog.errors import ConfigurationError
from dynlog.testing.probes import Probe, etcd_answers, kafka_answers, minio_answers, nats_answers, redis_answers
from dynlog.testing.process import NativeServer
from dynlog.testing.programs import find_in_cache, find_program

MINIO_USER, MINIO_PASSWORD = "minioadmin", "minioadmin"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers; ``source`` says what it is: a program's folder or a container's image and id."""

    kind: str
    host: str
    port: int
    source: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """``nats://host:port``, ``redis://host:port``, ``kafka://host:port`` or, for MinIO and etcd, ``http://host:port``."""
        return f"{KINDS[self.kind].url_scheme}://{self.address}"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """How to have one kind of server.  In the environment's values ``{port}`` and ``{host}`` stand for its address."""

    name: str
    url_scheme: str
    native: str
    """``module:class`` of its NativeServer, imported when it is first needed."""
    image: str
    port: int
    """Inside the container."""
    probe: Probe
    command: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    program: Callable[[], Path] | None = None
    """Finds what the native class wants as ``program=``; None if it looks for its program itself."""
    advertises: bool = False
    """It tells clients its own address, so the outer port must be known before the start."""
    user: str = ""
    password: str = field(default="", repr=False)

    def native_server(self, folder: Path) -> NativeServer:
        """A server of this kind over the folder, not started."""
        module, _, name = self.native.partition(":")
        make: Callable[..., NativeServer] = getattr(importlib.import_module(module), name)
        if self.program is None:
            return make(folder)
        return make(folder, program=self.program())


_REDIS = (
    "redis-server", "--protected-mode", "no", "--appendonly", "yes", "--appendfsync", "always", "--save", ""
)  # fmt: skip
_ETCD = ("etcd", "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", "http://127.0.0.1:2379")
_KAFKA = {
    "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw",
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
    "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://{host}:{port}",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_HEAP_OPTS": "-Xmx512m -Xms256m",
}

_ROWS = (
    ServerKind(
        name="kafka", url_scheme="kafka", port=9092, probe=kafka_answers,
        native="dynlog.testing.kafka:KafkaServer",
        program=lambda: find_in_cache("kafka", provide="in a clone of dynlog `make servers` provides it"),
        image="apache/kafka:4.1.1", environment=MappingProxyType(_KAFKA), advertises=True,
    ),
    ServerKind(
        name="redis", url_scheme="redis", port=6379, probe=redis_answers,
        native="dynlog.testing.redis:RedisServer",
        image="redis:8.2", command=_REDIS,
    ),
    ServerKind(
        name="minio", url_scheme="http", port=9000, probe=minio_answers,
        native="dynlog.testing.minio:MinioServer",
        program=lambda: find_program(
            "minio", provide="install the MinIO server; in a clone of dynlog `make servers` provides it"
        ),
        image="minio/minio:RELEASE.2025-09-07T16-13-09Z", command=("server", "/data"),
        environment=MappingProxyType({"MINIO_ROOT_USER": MINIO_USER, "MINIO_ROOT_PASSWORD": MINIO_PASSWORD}),
        user=MINIO_USER, password=MINIO_PASSWORD,
    ),
    ServerKind(
        name="nats", url_scheme="nats", port=4222, probe=nats_answers,
        native="dynlog.testing.nats:NatsServer",
        image="nats:2.15.2", command=("--jetstream", "--store_dir", "/data"),
    ),
    ServerKind(
        name="etcd", url_scheme="http", port=2379, probe=etcd_answers,
        native="dynlog.testing.etcd:EtcdServer",
        image="quay.io/coreos/etcd:v3.6.16", command=_ETCD,
    ),
)  # fmt: skip
KINDS: Mapping[str, ServerKind] = MappingProxyType({kind.name: kind for kind in _ROWS})


def server_kind(name: str) -> ServerKind:
    """The kind of that name; raises ConfigurationError."""
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigurationError(f"no server is called {name!r}; there are {', '.join(KINDS)}")
    return kind
