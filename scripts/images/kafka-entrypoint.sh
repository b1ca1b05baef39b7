#!/bin/sh
# KAFKA_PROCESS_ROLES=broker becomes process.roles=broker, and so on, as in the official image.
set -eu
properties=/tmp/server.properties
env | sed -nE '/^KAFKA_HEAP_OPTS=/d; s/^KAFKA_([A-Z_]+)=/\L\1=/; T; :a; s/^([^=_]*)_/\1./; ta; p' >"$properties"
echo log.dirs=/data/log >>"$properties"
options="${KAFKA_HEAP_OPTS:--Xmx512m} -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# shellcheck disable=SC2086
"$JAVA" $options -cp '/kafka/libs/*' kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c "$properties"
# shellcheck disable=SC2086
exec "$JAVA" $options -cp '/kafka/libs/*' kafka.Kafka "$properties"
