"""The README's table of engines is what the engines say of themselves, on real servers with their tests' settings."""

from __future__ import annotations

from pathlib import Path

import dynlog
from dynlog.testing.kinds import RunningServer
from dynlog.topics import Capabilities
from tests.house.repository import REPOSITORY

BEGIN, END = "<!-- capabilities: tests/engines/test_capabilities.py -->", "<!-- end of capabilities -->"
HEADER = (
    "| engine | durability | marks are checked | `expect=` is decided | a zombie is refused | a read sees | log time "
    "| shared by | largest append |"
)


def row(says: Capabilities) -> str:
    cells = [
        f"`{says.engine}://`",
        str(says.durability),
        "inside the append" if says.checks_marks else "by the reader, in log order",
        "inside the append" if says.compare_and_append else "by log order",
        "when its successor registers" if says.fences_at_registration else "when its successor has written",
        "all that was acknowledged" if says.reads_latest else "what its broker knows",
        "the server's" if says.server_time else "the host's",
        "one host, any number of processes" if says.single_host and says.many_processes
        else "any number of hosts" if says.many_processes else "one process",
        f"{says.max_batch_bytes / (1 << 20):.3g} MiB",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


async def test_the_readme_says_of_every_engine_what_it_says_of_itself(
    tmp_path: Path, dynlog_namespace: str, redis_server: RunningServer, kafka_server: RunningServer
) -> None:
    urls = [
        "memory://", f"sqlite://{tmp_path}/events.db",
        f"{redis_server.url}?prefix={dynlog_namespace}",
        f"{kafka_server.url}/{dynlog_namespace}",
    ]  # fmt: skip
    rows = []
    for url in urls:
        async with dynlog.open_log(url) as log:
            rows.append(row(log.capabilities))
    table = "\n".join(
        [
            HEADER,
            "|---|---|---|---|---|---|---|---|--:|",
            *rows,
        ]
    )
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    _, begin, rest = page.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    assert begin, BEGIN
    assert end, END
    assert inside.strip() == table, f"put this between the two marks:\n{table}"
