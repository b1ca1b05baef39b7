#!/usr/bin/env bash
# Provides nats-server (JetStream included) and prints where it is.  NATS_VERSION chooses another release.
. "$(dirname "$0")/lib.sh"

VERSION=${NATS_VERSION:-2.15.2}

build() {
    need_go nats-server
    GOBIN=$1 GOFLAGS=-trimpath go install "github.com/nats-io/nats-server/v2@v$VERSION"
}

provide nats-server "$VERSION" build "$@"
