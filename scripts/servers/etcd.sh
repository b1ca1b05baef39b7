#!/usr/bin/env bash
# Provides the etcd server and prints where it is.  ETCD_VERSION chooses another release.
# Distributions carry a release that is years old; Dynamo's own deployments run this line of releases.
. "$(dirname "$0")/lib.sh"

VERSION=${ETCD_VERSION:-3.6.16}

build() {
    need_go etcd
    # `go install` refuses a module with replace directives, which etcd's server has: a main of our own requires it.
    cat >"$1/main.go" <<'MAIN'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
MAIN
    (
        cd "$1"
        go mod init etcd
        go get "go.etcd.io/etcd/server/v3@v$VERSION"
        CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o etcd .
        rm main.go go.mod go.sum
    )
}

provide etcd "$VERSION" build "$@"
