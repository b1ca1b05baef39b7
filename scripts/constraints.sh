#!/usr/bin/env bash
# Writes constraints.txt anew: every package of every extra and of the development tools, for every Python and
# platform that pyproject.toml names, at one version and with its hashes.  Arguments go to `uv pip compile`, so
# `scripts/constraints.sh --upgrade` moves everything and without it only what pyproject.toml forces moves.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet uv

# No index address is emitted: which registry serves the packages is the machine's own setting.
"$tools/bin/uv" pip compile pyproject.toml --all-extras --group dev \
    --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-emit-find-links --quiet \
    --custom-compile-command scripts/constraints.sh \
    --output-file constraints.txt "$@"
