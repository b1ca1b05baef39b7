#!/usr/bin/env bash
# The image of the etcd server, made from the program that scripts/servers/etcd.sh provides.
. "$(dirname "$0")/lib.sh"
program=$("$(dirname "$0")/../servers/etcd.sh")
version=$(basename "$(dirname "$program")")

# As in the official image the program lies on PATH and is no entry point.
fill() {
    # shellcheck disable=SC2046
    pack "$1" $(libraries "$program")
    install -D "$program" "$1/usr/local/bin/etcd"
}

provide_image etcd "${version#etcd-}" fill 'ENV PATH=/usr/local/bin' 'WORKDIR /data' 'EXPOSE 2379'
