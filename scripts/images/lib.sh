# Shared by the scripts beside it; sourced, not run.  One script per server, each of the same form:
#
#     . "$(dirname "$0")/lib.sh"
#     fill() { ...; }                       # $1 is an empty folder that becomes the image's file system
#     provide_image NAME VERSION fill 'ENTRYPOINT [...]' ...
#
# It makes the image dynlog-test/NAME:VERSION from programs of this machine, once per version, and prints its name.
# Nothing is pulled: a program is packed with the shared libraries that it loads, and that is the whole image.
set -euo pipefail

need() { # need COMMAND WHY
    command -v "$1" >/dev/null || {
        echo "$(basename "$0"): '$1' is not on PATH: $2" >&2
        exit 1
    }
}

libraries() { ldd "$1" 2>/dev/null | grep -o '/[^ )]*' || true; } # libraries PROGRAM: the files that it loads

pack() { # pack ROOT FILE...: copies each file, with the libraries that it loads, to where it lies here
    local root=$1 file each
    shift
    for file in "$@"; do
        for each in "$file" $(libraries "$file"); do
            [ -e "$root$each" ] || install -D "$each" "$root$each"
        done
    done
}

provide_image() { # provide_image NAME VERSION FILL CHANGE...
    local image=dynlog-test/$1:$2 fill=$3 change changes=()
    shift 3
    need docker "the Docker client"
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        echo "$(basename "$0"): making the image $image" >&2
        local root
        root=$(mktemp -d)
        # shellcheck disable=SC2064
        trap "rm -rf '$root'" EXIT
        mkdir -p "$root/data" "$root/tmp" "$root/etc"
        echo 'root:x:0:0:root:/data:/bin/sh' >"$root/etc/passwd"
        "$fill" "$root" >&2
        for change in "$@"; do changes+=(--change "$change"); done
        tar -C "$root" -c . | docker import "${changes[@]}" - "$image" >/dev/null
    fi
    echo "$image"
}
