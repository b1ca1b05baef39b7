#!/usr/bin/env bash
# The image of Kafka: the jars that scripts/servers/kafka.sh provides on this machine's Java, started as the official
# image is, by KAFKA_... variables.
. "$(dirname "$0")/lib.sh"
need java "Kafka runs on it; install OpenJDK 17 or newer"
home=$(dirname "$("$(dirname "$0")/../servers/kafka.sh")")
version=$(basename "$home")
java=$(readlink -f "$(command -v java)")
jre=$(dirname "$(dirname "$java")")
here=$(cd "$(dirname "$0")" && pwd)

fill() {
    pack "$1" /bin/sh /usr/bin/env /bin/sed "$java"
    mkdir -p "$1/kafka"
    # Links are followed: a distribution keeps parts of its Java elsewhere (and the sources, perhaps not there at all).
    tar -C / -ch --exclude=src.zip --exclude=jmods "${jre#/}" | tar -C "$1" -x
    local library
    find "$jre" -name '*.so' | while read -r library; do
        # shellcheck disable=SC2046
        pack "$1" $(libraries "$library")
    done
    cp -r "$home/libs" "$1/kafka/libs"
    install -m 755 "$here/kafka-entrypoint.sh" "$1/kafka/entrypoint"
}

provide_image kafka "${version#kafka-}" fill 'ENTRYPOINT ["/kafka/entrypoint"]' "ENV JAVA=$java" \
    'ENV PATH=/usr/bin:/bin' 'WORKDIR /data' 'EXPOSE 9092'
