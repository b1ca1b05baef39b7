#!/usr/bin/env bash
# Provides redis-server and prints where it is.  It comes from the system's packages, so this script looks for it and,
# as root on Debian or Ubuntu, installs it; otherwise it says what to do.  With --where it only looks.
. "$(dirname "$0")/lib.sh"

if ! has redis-server && [ "${1:-}" != --where ]; then apt_install redis-server; fi
need redis-server "install Redis 6.2 or newer: apt-get install redis-server, or brew install redis"
command -v redis-server
