"""What a reader must know to judge a number: the machine, the versions, the revision and the command."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dynlog.network import session
from dynlog.testing.process import ServerNotAvailable
from dynlog.testing.programs import find_in_cache, find_program

REPOSITORY = Path(os.environ.get("DYNLOG_COMPILED_FROM") or Path(__file__).resolve().parent.parent)
"""Whose history it is, and where results go: the compiled copy has neither."""
PACKAGES = (
    "dynlog",
    "ai-dynamo-runtime",
    "msgpack",
    "xxhash",
    "pyzmq",
    "vllm",
    "aiokafka",
    "redis",
    "hiredis",
    "minio",
    "aetcd",
    "grpcio",
    "nats-py",
)


def machine_facts() -> dict[str, object]:
    """Facts by name, all JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "servers": {name: found for name, found in _servers().items() if found},
        "revision": _revision(),
        "build": "compiled" if (session.__file__ or "").endswith(".so") else "interpreted",
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _servers() -> dict[str, str | None]:
    """Versions of the servers that the benchmarks start; those that are not there are left out."""
    return {
        "redis-server": _answered("redis-server", "--version", pattern=r"v=(\S+)"),
        "kafka": _built("kafka"),
        "java": _answered("java", "-version", pattern=r'version "([^"]+)"'),
        "minio": _built("minio"),
        "etcd": _built("etcd"),
        "nats-server": _built("nats-server"),
    }


def _built(name: str) -> str | None:
    """The version in the name of the folder that scripts/servers made; what is on PATH instead is only named."""
    try:
        program = find_in_cache(name, provide="") if name == "kafka" else find_program(name, provide="")
    except ServerNotAvailable:
        return None
    folder = program.parent.name
    return folder.removeprefix(f"{name}-") if folder.startswith(f"{name}-") else "of PATH"


def _answered(program: str, option: str, *, pattern: str) -> str | None:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else None


def _revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
