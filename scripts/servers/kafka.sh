#!/usr/bin/env bash
# Provides Apache Kafka (KRaft, no ZooKeeper) and prints where its launcher is.  KAFKA_VERSION chooses another release.
# The launcher runs one of Kafka's main classes:  kafka kafka.Kafka server.properties
. "$(dirname "$0")/lib.sh"

VERSION=${KAFKA_VERSION:-4.1.1}

build() {
    need java "Kafka runs on it; install OpenJDK 17 or newer"
    need mvn "Kafka's jars come through Maven; install maven"
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
