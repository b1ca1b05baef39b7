#!/usr/bin/env bash
# Runs a command on a copy of this repository in which the modules that setup.py names are compiled:
#
#     scripts/compiled.sh python -m pytest tests/network
#
# `python` is the one of .venv.  The copy holds what git tracks, as it is in the working tree, so that no compiled module
# ever lies in the tree itself.  It lies in $DYNLOG_CACHE/compiled/ under the digest of all that it was made from, exists
# only complete, and the last three stay.
. "$(dirname "$0")/servers/lib.sh"
cd "$(dirname "$0")/.."
root=$PWD
export PATH=$root/.venv/bin:$PATH
[ -x .venv/bin/python ] || {
    echo "compiled.sh: no .venv/bin/python here; make install makes it" >&2
    exit 1
}
[ $# -gt 0 ] || {
    echo "compiled.sh: says no command: scripts/compiled.sh python -m pytest tests/network" >&2
    exit 1
}

config() { python -c "import sysconfig; print($1)"; }

need_compiler() {
    local compiler headers version
    compiler=${CC:-$(config "sysconfig.get_config_var('CC')")}
    compiler=${compiler%% *}
    headers=$(config "sysconfig.get_path('include')")
    version=$(config "sysconfig.get_python_version()")
    has "$compiler" || apt_install gcc libc6-dev
    [ -e "$headers/Python.h" ] || apt_install "python$version-dev"
    need "$compiler" "modules are compiled by a C compiler (Debian: apt-get install gcc libc6-dev)"
    [ -e "$headers/Python.h" ] || {
        echo "compiled.sh: no Python.h in $headers: what is compiled needs it (Debian: apt-get install python$version-dev)" >&2
        exit 1
    }
}

# A tracked file that was deleted is no part of the tree.
tracked() {
    git ls-files -z | while IFS= read -r -d '' file; do
        if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
    done
}

digest() {
    tracked | python -c '
import hashlib, os, sys
import mypy.version, setuptools

made_by = (sys.version, mypy.version.__version__, setuptools.__version__)
digest = hashlib.sha256(repr(made_by).encode())
for name in sys.stdin.buffer.read().split(b"\0")[:-1]:
    said = os.readlink(name) if os.path.islink(name) else open(name, "rb").read()
    digest.update(b"%d %d %o " % (len(name), len(said), os.lstat(name).st_mode) + name + said)
print(digest.hexdigest())'
}

# Times are now: an .so that is older than its module would be built again by whoever builds there.
build() { # build DIRECTORY
    tracked | tar -c --null -T - -f - | tar -x -m -f - -C "$1"
    (cd "$1" && DYNLOG_COMPILE=1 python setup.py --quiet build_ext --inplace && rm -rf build) >"$1/build.log" 2>&1 || {
        tail -30 "$1/build.log" >&2
        echo "compiled.sh: the modules could not be compiled" >&2
        exit 1
    }
}

digest=$(digest)
home=$DYNLOG_CACHE/compiled/$digest

if [ ! -d "$home" ]; then
    mkdir -p "$DYNLOG_CACHE/compiled"
    # The kernel drops this lock with the process, however it ends.
    exec 9>"$DYNLOG_CACHE/compiled.lock"
    if has flock && ! flock --wait 900 9; then
        echo "compiled.sh: another process has been compiling for 15 minutes" >&2
        exit 1
    fi
fi
if [ ! -d "$home" ]; then
    need_compiler
    # What a build that was killed left: under the lock nobody else builds.
    if has flock; then rm -rf "$DYNLOG_CACHE"/compiled/part.*; fi
    echo "compiled.sh: compiling into $home" >&2
    part=$(mktemp -d "$DYNLOG_CACHE/compiled/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    build "$part"
    [ -d "$home" ] || mv "$part" "$home"
    trap - EXIT
    rm -rf "$part"
fi
exec 9>&-
touch "$home"
# shellcheck disable=SC2012 # the names are digests
ls -td "$DYNLOG_CACHE"/compiled/[0-9a-f]*/ | tail -n +4 | xargs -r rm -rf

cd "$home"
# First on the path also for processes that a test starts elsewhere: .venv itself names the repository.
export PYTHONPATH=$home
# Where its history is, and the results of its benchmarks go.
export DYNLOG_COMPILED_FROM=$root
export DYNLOG_SHARED=${DYNLOG_SHARED:-$(dirname "$root")/shared}
python - <<'CHECK'
import importlib
import sys

from setup import compiled_modules

files = {name: importlib.import_module(name).__file__ or "" for name in compiled_modules()}
if plain := {name: file for name, file in files.items() if not file.endswith(".so")}:
    sys.exit(f"compiled.sh: not compiled where it is imported from: {plain}")
CHECK
exec "$@"
