"""Measurements against peers, in one run on one machine: every module here with a `run(quick)` is a benchmark.

`python -m benchmarks` runs them all and writes results/; `report` says what a row is."""
