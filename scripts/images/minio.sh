#!/usr/bin/env bash
# The image of the MinIO server, made from the program that scripts/servers/minio.sh provides.
. "$(dirname "$0")/lib.sh"
program=$("$(dirname "$0")/../servers/minio.sh")
version=$(basename "$(dirname "$program")")

fill() {
    # shellcheck disable=SC2046
    pack "$1" $(libraries "$program")
    install -D "$program" "$1/usr/bin/minio"
}

provide_image minio "${version#minio-}" fill 'ENTRYPOINT ["/usr/bin/minio"]' 'WORKDIR /data' 'EXPOSE 9000'
