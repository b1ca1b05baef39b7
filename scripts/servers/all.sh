#!/usr/bin/env bash
# Provides every server that has a script here and prints where each is; goes on after one failed, and fails then.
set -uo pipefail
cd "$(dirname "$0")"
failed=0
for script in *.sh; do
    case $script in lib.sh | all.sh) continue ;; esac
    "./$script" "$@" || failed=1
done
exit "$failed"
