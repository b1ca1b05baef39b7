"""What the tests need is installed where that can be done, in one line, and else named: on a fresh machine, too."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY

SERVERS = REPOSITORY / "scripts" / "servers"
NEEDED = (
    "bash", "env", "dirname", "basename", "mkdir", "mktemp", "rm", "flock", "sed", "tail", "chmod", "timeout", "seq",
    "sleep", "touch", "pgrep", "umount",
)  # fmt: skip


class Machine:
    """A PATH with what every Debian has, and with programs that the test makes up."""

    def __init__(self, folder: Path, *, user: int) -> None:
        self.programs, self.cache, self.asked = folder / "bin", folder / "cache", folder / "asked"
        self.programs.mkdir()
        for tool in NEEDED:
            if found := shutil.which(tool):
                (self.programs / tool).symlink_to(found)
        self.has("id", f"echo {user}")

    def has(self, name: str, script: str = "exit 0") -> None:
        """A program of that name, of this shell script."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def has_apt(self, *, program: str | None) -> None:
        """An apt-get that notes what it is asked for and brings a program, or fails to install."""
        made = f"{self.programs}/{program}"
        brings = (
            f"printf '#!/bin/sh\\nexit 0\\n' >{made}; chmod +x {made}" if program else "echo E: no network; exit 100"
        )
        self.has(
            "apt-get",
            f'echo much talk\necho "$*" >>{self.asked}\ncase "$*" in *simulate*) ;; *" -y "*) {brings} ;; esac',
        )

    def run(self, script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": str(self.programs), "DYNLOG_CACHE": str(self.cache), "HOME": "/"}
        return subprocess.run(
            [script, *arguments], env={**own, **environment},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


def test_root_on_debian_gets_redis_by_apt_in_one_line(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.has_apt(program="redis-server")
    done = machine.run(SERVERS / "redis.sh")
    assert (done.returncode, done.stdout) == (0, f"{machine.programs}/redis-server\n"), done.stderr
    assert done.stderr == "redis.sh: installing by apt-get: redis-server\n"
    machine.asked.unlink()
    assert machine.run(SERVERS / "redis.sh").stderr == ""
    assert not machine.asked.exists(), "what is there is not installed again"


def test_an_apt_that_fails_is_heard_and_what_is_missing_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.has_apt(program=None)
    done = machine.run(SERVERS / "redis.sh")
    assert done.returncode != 0
    assert "E: no network" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "redis.sh: 'redis-server' is not on PATH: install Redis 6.2 or newer"
    )


def test_who_only_asks_where_a_server_is_installs_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.has_apt(program="redis-server")
    assert machine.run(SERVERS / "redis.sh", "--where").returncode != 0
    assert machine.run(SERVERS / "kafka.sh", "--where").returncode != 0
    assert not machine.asked.exists()


@pytest.mark.parametrize(
    ("script", "there", "says"),
    [
        ("redis.sh", {}, "redis.sh: 'redis-server' is not on PATH: install Redis 6.2 or newer: apt-get install redis"),
        (
            "kafka.sh",
            {},
            "kafka.sh: 'java' is not on PATH: Kafka runs on it; install Java 17 or newer: apt-get install",
        ),
        ("kafka.sh", {"java": "exit 0"}, "kafka.sh: 'mvn' is not on PATH: Kafka's jars come through Maven: apt-get"),
        (
            "kafka.sh",
            {"java": """echo 'openjdk version "11.0.2" 2019' >&2""", "mvn": "exit 0"},
            "kafka.sh: Kafka needs Java 17 or newer, and 'java' on PATH is 11",
        ),
        ("minio.sh", {}, "minio.sh: 'go' is not on PATH: minio is built from source; install Go 1.24 or newer (Debian"),
        ("etcd.sh", {}, "etcd.sh: 'go' is not on PATH: etcd is built from source; install Go 1.24 or newer (Debian 13"),
        ("nats.sh", {}, "nats.sh: 'go' is not on PATH: nats-server is built from source; install Go 1.24 or newer ("),
    ],
)
def test_who_is_not_root_reads_in_the_last_line_what_to_install(
    tmp_path: Path, script: str, there: dict[str, str], says: str
) -> None:
    machine = Machine(tmp_path, user=1000)
    machine.has_apt(program="redis-server")
    for name, text in there.items():
        machine.has(name, text)
    done = machine.run(SERVERS / script)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(says)
    assert not machine.asked.exists()


@pytest.mark.parametrize(
    ("user", "there", "says"),
    [
        (1000, [], "containers.sh: 'docker' is not on PATH: install Docker"),
        (1000, ["docker"], "containers.sh: 'dockerd' is not on PATH: no Docker daemon answers and none can be started"),
        (1000, ["docker", "dockerd"], "containers.sh: no Docker daemon answers, and only root can start one"),
        (0, ["docker", "dockerd"], "containers.sh: dockerd did not come up:"),
    ],
)
def test_without_a_docker_daemon_that_can_be_had_the_containers_path_says_why(
    tmp_path: Path, user: int, there: list[str], says: str
) -> None:
    machine = Machine(tmp_path, user=user)
    for name in there:
        machine.has(name, "exit 1")
    done = machine.run(REPOSITORY / "scripts" / "containers.sh", "true")
    assert done.returncode != 0
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("left", "command", "status"), [("", "true", 0), ("", "false", 1), ("0a1b2c", "true", 1)])
def test_the_containers_path_stops_its_dockerd_and_fails_if_containers_are_left(
    tmp_path: Path, left: str, command: str, status: int
) -> None:
    machine = Machine(tmp_path, user=0)
    machine.has("true")
    machine.has("false", "exit 1")
    machine.has("dockerd", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    machine.has("docker", f'case $1 in info) [ -s {tmp_path}/pid ] ;; ps) [ -z "{left}" ] || echo "{left}" ;; esac')
    done = machine.run(REPOSITORY / "scripts" / "containers.sh", command, SERVERS=" ", TMPDIR=str(tmp_path))
    assert done.returncode == status, done.stderr
    assert done.stderr == (f"containers.sh: the command left containers behind: {left}\n" if left else "")
    assert not Path("/proc", (tmp_path / "pid").read_text(encoding="utf-8").strip()).exists()
    assert list(tmp_path.glob("tmp.*")) == []


def test_everything_that_is_there_is_found_in_no_time() -> None:
    done = subprocess.run(
        [SERVERS / "all.sh"], env=os.environ, capture_output=True, text=True, check=True, timeout=2,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr == ""
