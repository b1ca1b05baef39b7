"""`python -m benchmarks.figures`: writes the figures of benchmarks/results/latest.json into README.md as they came out.

Every row that promised something or has a peer is in the README, the missed ones first; `tests/house/test_figures.py`
holds the page against the file, so that no figure there is older than its source or was improved by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LATEST = HERE / "results" / "latest.json"
README = HERE.parent / "README.md"
_PEERS = (
    "Peers are measured in the same run: `ai-dynamo-runtime`'s Rust `RadixTree` (it is fed JSON bytes and hops to its "
    "thread, ours reads columns: format and runs make the difference, not Python); a raw file with `write` + "
    "`fdatasync`; and, against the same server, plain aiokafka (batches of an idempotent producer, acks=all), plain "
    "redis-py (XADD in pipelines, XRANGE in pages) and plain minio-py (which verifies nothing that it reads unless the "
    "row says so); for buckets etcd through aetcd and NATS's key-value store through nats-py, at the same "
    "durability. All rows, and the versions of servers and clients: `benchmarks/results/latest.json`."
)
BEGIN, END = "<!-- figures: python -m benchmarks.figures -->", "<!-- end of figures -->"


def figures(document: dict[str, Any]) -> str:
    """The section's text for one run of all benchmarks."""
    machine, date = document["machine"], document["date"][:10]
    build = ", the compiled build (see Install)" if machine.get("build") == "compiled" else ""
    rows = [row for rows in document["benchmarks"].values() for row in rows]
    promised = [row for row in rows if row["met"] is not None]
    missed = [
        f"{row['name']} ({_number(row['value'])} {row['unit']}, promised {row['required']})"
        for row in promised
        if not row["met"]
    ]
    shown = [row for row in rows if row["met"] is not None or row["peer"] is not None]
    lines = [
        f"`make bench` (`{machine['command']}`) on {machine['cores']} cores of {machine['cpu']}, {machine['system']}, "
        f"Python {machine['python']}, SQLite {machine['sqlite']}, {date}, revision {machine['revision']}"
        f"{build}. {_PEERS}",
        "",
        f"{len(promised) - len(missed)} of {len(promised)} promises were kept."
        + (f" Missed: {'; '.join(missed)}." if missed else ""),
        "",
        "| | dynlog | unit | peer | ratio | promised |",
        "|---|--:|---|--:|--:|---|",
    ]
    for row in sorted(shown, key=lambda row: row["met"] is not False):
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        verdict = {None: "", True: row["required"], False: f"{row['required']} **missed**"}[row["met"]]
        value, peer = _number(row["value"]), _number(row["peer"])
        lines.append(f"| {row['name']} | {value} | {row['unit']} | {peer} | {ratio} | {verdict} |")
    return "\n".join([*lines, *side_by_side(document["benchmarks"].get("engines", ()))])


def side_by_side(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table with a column for each engine; the rows are named ``measure: engine``."""
    if not rows:
        return []
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    engines: dict[str, str] = {}
    for row in rows:
        measure, _, engine = row["name"].rpartition(": ")
        cells.setdefault(measure, {})[engine] = row
        level = row["note"].removeprefix("durability: ") if row["note"].startswith("durability: ") else ""
        engines[engine] = engines.get(engine) or level
    lines = [
        "",
        "All engines side by side, in the same run, the servers on the same machine; in brackets what an acknowledged "
        "append survives, so compare within a level:",
        "",
        f"| | {' | '.join(f'{engine} ({level})' for engine, level in engines.items())} | unit |",
        f"|---|{'--:|' * len(engines)}---|",
    ]
    for measure, found in cells.items():
        values = (_number(found[engine]["value"]) if engine in found else "" for engine in engines)
        lines.append(f"| {measure} | {' | '.join(values)} | {next(iter(found.values()))['unit']} |")
    return lines


def with_figures(page: str, text: str) -> str:
    """The page with the text between its two marks; raises ValueError if they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    """Rewrites README.md."""
    text = figures(json.loads(LATEST.read_text(encoding="utf-8")))
    README.write_text(with_figures(README.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
