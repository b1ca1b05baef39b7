#!/usr/bin/env bash
# Provides redis-server and prints where it is.  It comes from the system's packages, so this script looks for it and,
# as root on Debian or Ubuntu, installs it; otherwise it says what to do.  With --where it only looks.
. "$(dirname "$0")/lib.sh"

if ! command -v redis-server >/dev/null && [ "${1:-}" != --where ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # Without the package's own service: tests start the server themselves, each on a port of its own.
    { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server; } >&2
fi
need redis-server "install Redis 6.2 or newer: apt-get install redis-server, or brew install redis"
command -v redis-server
