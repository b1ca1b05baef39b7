#!/usr/bin/env bash
# Provides every server that has a script here and prints where each is, and what else tests call; goes on after one
# failed, and fails then.
. "$(dirname "$0")/lib.sh"
set +e
cd "$(dirname "$0")"
failed=0
for script in *.sh; do
    case $script in lib.sh | all.sh) continue ;; esac
    "./$script" "$@" || failed=1
done
if ! has openssl && [ "${1:-}" != --where ]; then apt_install openssl; fi
(need openssl "tests of TLS make certificates with it; apt-get install openssl") || failed=1
exit "$failed"
