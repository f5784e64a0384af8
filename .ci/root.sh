# Sourced after mirror.sh, beside which it stands because that is part of the key of kept guest images.
# shellcheck shell=bash

# A new Debian root of release SUITE in DIRECTORY, by root; the options are mmdebstrap's.
make_root() { # SUITE DIRECTORY [OPTION...]
    local suite=$1 directory=$2 options
    shift 2
    mapfile -t options < <(apt_options)
    apt_sources "$suite" >"$directory.list"
    echo "== $suite: mmdebstrap" >&2
    # Certificates by a variable of this machine's are files that the root does not have.
    env -u SSL_CERT_FILE -u SSL_CERT_DIR mmdebstrap --mode=root --quiet "${options[@]}" "$@" \
        "$suite" "$directory" "$directory.list"
}
