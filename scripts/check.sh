#!/usr/bin/env bash
# Runs the named stages in order, all of them also after one failed, says what each took, and fails if any did.
# Under this script a skipped test is a failure (see conftest.py).
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export DYNLOG_NO_SKIPS=1

servers() { scripts/servers/nats.sh && scripts/servers/kafka.sh; }
lint() { "$bin/ruff" check . && "$bin/ruff" format --check .; }
types() { "$bin/mypy"; }
layers() { "$bin/lint-imports"; }
tests() { "$bin/python" -m pytest --durations=20 ${ARGS:-}; }

report=()
failed=0
started=$SECONDS
for stage in "$@"; do
    printf '\n== %s\n' "$stage"
    begin=$(date +%s%N)
    if "$stage"; then outcome=ok; else outcome=FAILED failed=1; fi
    report+=("$(printf '%-8s %-6s %8d ms' "$stage" "$outcome" $((($(date +%s%N) - begin) / 1000000)))")
done

printf '\n== wall time\n'
printf '%s\n' "${report[@]}" "$(printf '%-15s %8d s' all $((SECONDS - started)))"
exit "$failed"
