#!/usr/bin/env bash
# The image of nats-server with JetStream, made from the program that scripts/servers/nats.sh provides.
. "$(dirname "$0")/lib.sh"
program=$("$(dirname "$0")/../servers/nats.sh")
version=$(basename "$(dirname "$program")")

fill() {
    # shellcheck disable=SC2046
    pack "$1" $(libraries "$program")
    install -D "$program" "$1/usr/bin/nats-server"
}

provide_image nats "${version#nats-server-}" fill 'ENTRYPOINT ["/usr/bin/nats-server"]' 'WORKDIR /data' 'EXPOSE 4222'
