#!/usr/bin/env bash
# Runs the named stages in order, all of them also after one failed, says what each took, and fails if any did.
# Under this script a skipped test is a failure (see conftest.py).
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export DYNLOG_NO_SKIPS=1
# Servers from native programs, whether or not a Docker daemon happens to run; the stage `containers` is the other way.
export DYNLOG_SERVERS=native

servers() { scripts/servers/all.sh; }
lint() { "$bin/ruff" check . && "$bin/ruff" format --check .; }
types() { "$bin/mypy"; }
layers() { "$bin/lint-imports"; }
# What shows in the least time that each server also comes from a container; `make test-containers` runs all of it.
containers() {
    scripts/containers.sh "$bin/python" -m pytest -q --durations=5 \
        tests/testing/test_fixtures.py::test_a_server_comes_from_where_the_run_says
}
# What touches the event loop most, on the loop that vLLM and Dynamo run on: wires, calls, and the engines' conformance.
uvloop() {
    "$bin/python" -m pytest --loop uvloop -n2 --dist loadfile -q --durations=5 tests/wires tests/network/test_calls_on_sessions.py \
        tests/network/test_log_calls.py tests/{storage,redis,kafka}/test_*_conformance.py
}
# The compiled build (setup.py): what drives each module that is compiled.
compiled() {
    scripts/compiled.sh python -m pytest -n2 --dist loadfile -q --durations=5 tests/network/test_session*.py \
        tests/network/test_{calls_on_sessions,link_room,managers,events_alone}.py tests/kv/test_{fold,records}.py \
        tests/kv/test_{memory,sqlite}_kv.py tests/router/test_index*.py tests/router/test_{projection_law,state}.py \
        tests/core/test_prompt.py
}
# Two at a time, a file's tests by one of them; what claims a time or a rate alone, after that.
tests() {
    "$bin/python" -m pytest -n2 --dist loadfile -q --durations=20 -m "not timing" ${ARGS:-}
    local most=$?
    "$bin/python" -m pytest -q -m timing ${ARGS:-}
    local timed=$?
    # 5: ARGS chose none of that kind.
    [[ $most == [05] && $timed == [05] && $most$timed != 55 ]]
}

report=()
failed=0
started=$SECONDS
for stage in "$@"; do
    printf '\n== %s\n' "$stage"
    begin=$(date +%s%N)
    if "$stage"; then outcome=ok; else outcome=FAILED failed=1; fi
    report+=("$(printf '%-10s %-6s %8d ms' "$stage" "$outcome" $((($(date +%s%N) - begin) / 1000000)))")
done

printf '\n== wall time\n'
printf '%s\n' "${report[@]}" "$(printf '%-17s %8d s' all $((SECONDS - started)))"
exit "$failed"
