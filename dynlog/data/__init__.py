"""Data that ships with dynlog: a sample of a production trace for the demo (see NOTICE for its licence)."""

from __future__ import annotations

from pathlib import Path


def sample_trace() -> Path:
    """The first 2,000 requests of the Mooncake conversation trace."""
    return Path(__file__).with_name("mooncake_sample.jsonl.gz")
