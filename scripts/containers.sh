#!/usr/bin/env bash
# Runs a command while a Docker daemon answers and local images of the servers are there; the fixtures of
# dynlog.testing then take their servers from containers of these images:
#
#     scripts/containers.sh .venv/bin/python -m pytest tests/testing/with_docker.py
#
# Without a daemon it starts a dockerd of its own over $DYNLOG_CACHE/docker (the images stay there) and stops it by
# its pid at the end; containers that the command left make it fail.  Docker is installed by apt-get where it is
# missing and we are root on Debian or Ubuntu.  SERVERS="nats redis" chooses which images are made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/servers/lib.sh"
cache=$DYNLOG_CACHE
servers=${SERVERS:-kafka redis minio nats etcd}

answers() {
    # A daemon that hangs is none; macOS, which starts none here anyway, has no timeout.
    if has timeout; then timeout 20 docker info; else docker info; fi >/dev/null 2>&1
}

start_dockerd() {
    # Debian 13 has the client in a package of its own, earlier releases in docker.io.
    if ! has docker || ! has dockerd; then apt_install docker.io docker-cli; fi
    need docker "install Docker, or start its daemon if it is there (Debian: apt-get install docker.io docker-cli)"
    need dockerd "no Docker daemon answers and none can be started; install it (Debian: apt-get install docker.io)"
    [ "$(id -u)" = 0 ] || {
        echo "containers.sh: no Docker daemon answers, and only root can start one: systemctl start docker" >&2
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
        if answers; then
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

ended() { # ended PID: waits for it, 30 s at most
    for _ in $(seq 300); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}

stop_dockerd() {
    local status=$? left child
    # After a signal the command may still run; its servers must go before their daemon does.
    for child in $(pgrep -P $$ || true); do
        if [ "$child" != "$dockerd" ] && kill -INT "$child" 2>/dev/null; then ended "$child" || kill -KILL "$child"; fi
    done
    left=$(timeout 20 docker ps --all --quiet 2>/dev/null || true)
    if [ -n "$left" ]; then
        echo "containers.sh: the command left containers behind:" $left >&2
        [ "$status" != 0 ] || status=1
    fi
    kill "$dockerd" 2>/dev/null || true
    # It stops what still runs, and its containerd.
    if ! ended "$dockerd"; then
        echo "containers.sh: dockerd had to be killed" >&2
        kill -KILL "$dockerd"
    fi
    wait "$dockerd" 2>/dev/null || true
    # What a container on the host's network leaves mounted there.
    umount "$run"/exec/netns/* 2>/dev/null || true
    rm -rf "$run"
    exit "$status"
}

answers || start_dockerd

for server in $servers; do
    image=$("$here/images/$server.sh")
    export "DYNLOG_IMAGE_${server^^}=$image"
done

# This machine may itself be a container, without a bridge of its own; the reaper's image cannot be made here, and
# the fixtures remove what they start.
export DYNLOG_SERVERS=containers TESTCONTAINERS_RYUK_DISABLED=true
export TESTCONTAINERS_CONNECTION_MODE=docker_host TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
"$@"
