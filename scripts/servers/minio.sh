#!/usr/bin/env bash
# Provides the MinIO server and prints where it is.  MINIO_VERSION chooses another release or commit (without the v).
. "$(dirname "$0")/lib.sh"

# MinIO's releases carry dates instead of semantic versions, so Go names a commit: this is the last one of the project.
VERSION=${MINIO_VERSION:-0.0.0-20260212201848-7aac2a2c5b7c}

build() {
    need_go minio
    CGO_ENABLED=0 GOBIN=$1 GOFLAGS=-trimpath go install -ldflags "-s -w" "github.com/minio/minio@v$VERSION"
}

provide minio "$VERSION" build "$@"
