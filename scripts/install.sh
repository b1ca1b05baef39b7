#!/usr/bin/env bash
# Makes the virtual environment $1 with exactly what constraints.txt names, checked against its hashes, and this
# repository on top, editable.  Plain pip; which registry it asks is the machine's own setting.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    # A name on PATH may be a shim for a version that is not installed, so each one is run.
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "make install: no Python 3.11 or newer found${PYTHON:+ at PYTHON=$PYTHON}; install one, or name it: make install PYTHON=/path/to/python3" >&2
    return 1
}

# An environment whose interpreter went away (an upgraded system) is useless; one that works is kept.
if ! is_new_enough "$venv/bin/python"; then
    python=$(find_python)
    rm -rf "$venv"
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        echo "make install: $python cannot make a virtual environment; its venv module is missing (Debian: apt-get install python3-venv)" >&2
        exit 1
    }
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r constraints.txt
# setuptools came with the constraints, so the build needs nothing from outside.
# What is worked on is never compiled, whatever the environment says.
DYNLOG_COMPILE="" "${pip[@]}" install --no-deps --no-build-isolation --editable .
echo "installed into $venv: $("$venv/bin/python" --version), dynlog $("$venv/bin/python" -c 'from importlib.metadata import version; print(version("dynlog"))')"
