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

# apt_install PACKAGE...: as root on Debian or Ubuntu installs the packages, with one line about it and apt's own words
# only if it failed; elsewhere does nothing, and the caller's `need` says what is missing.  "a|b|c" is the first of
# these that this release has.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    local wanted=$* log each choice packages=()
    log=$(mktemp)
    # One at a time: apt-get does not wait for the lock over its lists.
    mkdir -p "$DYNLOG_CACHE"
    exec 8>"$DYNLOG_CACHE/apt.lock"
    flock --wait 900 8 || true
    echo "$(basename "$0"): installing by apt-get: $wanted" >&2
    if apt-get -q update >"$log" 2>&1; then
        for each in "$@"; do
            for choice in ${each//|/ }; do
                if apt-get -q --simulate install --no-install-recommends "$choice" >/dev/null 2>&1; then
                    packages+=("$choice")
                    break
                fi
            done
        done
        # RUNLEVEL=1: no package starts its own service; tests start each server themselves, on a port of its own.
        if RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1 </dev/null; then
            rm -f "$log"
            exec 8>&-
            return
        fi
    fi
    exec 8>&-
    tail -5 "$log" >&2
    echo "$(basename "$0"): apt-get could not install $wanted" >&2
    rm -f "$log"
}

need_go() {
    need go "$1 is built from source; install Go 1.24 or newer (Debian 13: apt-get install golang-go; brew install go)"
}

has() { command -v "$1" >/dev/null; }

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
