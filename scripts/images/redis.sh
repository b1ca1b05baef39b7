#!/usr/bin/env bash
# The image of the redis-server on PATH.
. "$(dirname "$0")/lib.sh"
need redis-server "install it (Debian: apt-get install redis-server)"
# Not resolved further: it may be a link to a program that looks at the name by which it was called.
program=$(command -v redis-server)
version=$("$program" --version | sed -E 's/.* v=([0-9.]+).*/\1/')

fill() { pack "$1" "$program"; }

provide_image redis "$version" fill "ENV PATH=$(dirname "$program")" 'WORKDIR /data' 'EXPOSE 6379'
