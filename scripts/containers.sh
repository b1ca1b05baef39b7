#!/usr/bin/env bash
# Runs a command while a Docker daemon answers and local images of the servers are there; the fixtures of
# dynlog.testing then take their servers from containers of these images:
#
#     scripts/containers.sh .venv/bin/python -m pytest tests/testing/containers
#
# Without a daemon it starts a dockerd of its own over $DYNLOG_CACHE/docker (the images stay there) and stops it by
# its pid at the end.  SERVERS="nats redis" chooses which images are made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${DYNLOG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dynlog}
servers=${SERVERS:-kafka redis minio nats}

start_dockerd() {
    if ! command -v dockerd >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker.io; } >&2
    fi
    command -v dockerd >/dev/null || {
        echo "containers.sh: no Docker daemon answers and dockerd is not on PATH (Debian: apt-get install docker.io)" >&2
        exit 1
    }
    run=$(mktemp -d)
    mkdir -p "$cache/docker"
    exec 9>"$cache/docker.lock"
    flock --wait 900 9 || {
        echo "containers.sh: another one has been using $cache/docker for 15 minutes" >&2
        exit 1
    }
    export DOCKER_HOST=unix://$run/docker.sock
    dockerd --host "$DOCKER_HOST" --data-root "$cache/docker" --exec-root "$run/exec" --pidfile "$run/pid" \
        >"$run/log" 2>&1 9>&- &
    dockerd=$!
    trap stop_dockerd EXIT
    for _ in $(seq 300); do
        if docker info >/dev/null 2>&1; then
            # What a run that was killed left; this daemon is ours alone.
            docker container prune --force >/dev/null
            return
        fi
        kill -0 "$dockerd" 2>/dev/null || break
        sleep 0.1
    done
    echo "containers.sh: dockerd did not come up:" >&2
    tail -5 "$run/log" >&2
    exit 1
}

stop_dockerd() {
    kill "$dockerd" 2>/dev/null || true
    wait "$dockerd" 2>/dev/null || true
    # What a container on the host's network leaves mounted there.
    umount "$run"/exec/netns/* 2>/dev/null || true
    rm -rf "$run"
}

docker info >/dev/null 2>&1 || start_dockerd

for server in $servers; do
    image=$("$here/images/$server.sh")
    export "DYNLOG_IMAGE_${server^^}=$image"
done

# This machine may itself be a container, without a bridge of its own; the reaper's image cannot be made here, and
# the fixtures remove what they start.
export DYNLOG_SERVERS=containers TESTCONTAINERS_RYUK_DISABLED=true
export TESTCONTAINERS_CONNECTION_MODE=docker_host TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
"$@"
