# Shared by the scripts beside it; sourced, not run.  One script per server, each of the same form:
#
#     . "$(dirname "$0")/lib.sh"
#     build() { ...; }                  # $1 is an empty directory; puts the program there as $1/NAME
#     provide NAME VERSION build "$@"   # prints where the program is; with --where it never builds, and fails if absent
#
# A server lies in $DYNLOG_CACHE/NAME-VERSION/; it is built once per version and that directory exists only complete.
set -euo pipefail

DYNLOG_CACHE=${DYNLOG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dynlog}

need() { # need COMMAND WHY
    command -v "$1" >/dev/null || {
        echo "$(basename "$0"): '$1' is not on PATH: $2" >&2
        exit 1
    }
}

provide() { # provide NAME VERSION BUILD [--where]
    local name=$1 version=$2 build=$3
    local home=$DYNLOG_CACHE/$name-$version
    if [ "${4:-}" = --where ] && [ ! -x "$home/$name" ]; then
        echo "$(basename "$0"): $name $version is not in $home" >&2
        exit 1
    fi
    if [ ! -x "$home/$name" ]; then
        mkdir -p "$DYNLOG_CACHE"
        # Two clones may ask at the same moment: the second waits, then finds it there.  The kernel drops this lock
        # with the process, however it ends.  Without flock (macOS) both build and the rename below lets one win.
        exec 9>"$home.lock"
        if command -v flock >/dev/null && ! flock --wait 1800 9; then
            echo "$(basename "$0"): another process has been building $name $version for 30 minutes" >&2
            exit 1
        fi
    fi
    if [ ! -x "$home/$name" ]; then
        echo "$(basename "$0"): building $name $version into $home" >&2
        local part
        part=$(mktemp -d "$home.part.XXXXXX")
        # shellcheck disable=SC2064
        trap "rm -rf '$part'" EXIT
        "$build" "$part" >&2
        [ -x "$part/$name" ] || {
            echo "$(basename "$0"): the build of $name $version left no program at $part/$name" >&2
            exit 1
        }
        [ -d "$home" ] || mv "$part" "$home"
    fi
    echo "$home/$name"
}
