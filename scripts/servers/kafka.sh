#!/usr/bin/env bash
# Provides Apache Kafka (KRaft, no ZooKeeper) and prints where its launcher is.  KAFKA_VERSION chooses another release.
# The launcher runs one of Kafka's main classes:  kafka kafka.Kafka server.properties
. "$(dirname "$0")/lib.sh"

VERSION=${KAFKA_VERSION:-4.1.1}

JAVA="openjdk-21-jre-headless|openjdk-17-jre-headless|openjdk-25-jre-headless"

java_version() { java -version 2>&1 | sed -nE 's/^[a-z]+ version "([0-9]+).*/\1/p' || true; }

# The cached jars are of no use without Java either, so this is looked at each time; Maven only where jars are missing.
if ! has java && [ "${1:-}" != --where ]; then apt_install "$JAVA"; fi
need java "Kafka runs on it; install Java 17 or newer: apt-get install openjdk-17-jre-headless, or brew install openjdk"

build() {
    has mvn || apt_install maven "$JAVA"
    need mvn "Kafka's jars come through Maven: apt-get install maven, or brew install maven"
    local java
    java=$(java_version)
    [ "${java:-0}" -ge 17 ] || {
        echo "kafka.sh: Kafka needs Java 17 or newer, and 'java' on PATH is ${java:-of no version that it tells}" >&2
        exit 1
    }
    cat >"$1/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dynlog</groupId><artifactId>kafka-server</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$VERSION</version></dependency>
  </dependencies>
</project>
POM
    (cd "$1" && mvn --batch-mode --quiet dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=libs)
    cat >"$1/kafka" <<'LAUNCHER'
#!/bin/sh
# exec: a signal to this process is a signal to the server.
exec java ${KAFKA_JVM:--Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1} \
    -cp "$(dirname "$0")/libs/*" "$@"
LAUNCHER
    chmod +x "$1/kafka"
}

provide kafka "$VERSION" build "$@"
