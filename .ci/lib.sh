# Sourced by every script of this folder: where things are, who we are, how root is asked for.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
RUST_MINIMUM=1.89
export PIP_DISABLE_PIP_VERSION_CHECK=1 DEBIAN_FRONTEND=noninteractive
cd -- "$ROOT"

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "zos: $1" "${2:+hint: $2}" >&2; exit 1; }

# `sudo make ...` in a checkout of an ordinary user: go on as that user, so that nothing root-owned is left behind.
if [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID:-}" ] && [ "${SUDO_UID:-}" != 0 ] && [ "$(stat -c %u .)" = "$SUDO_UID" ]; then
    caller=$(getent passwd "$SUDO_UID" | cut -d: -f1)
    say "going on as $caller, who owns this checkout"
    exec env -u SUDO_UID -u SUDO_GID -u SUDO_USER -u SUDO_COMMAND \
        HOME="$(getent passwd "$SUDO_UID" | cut -d: -f6)" USER="$caller" LOGNAME="$caller" \
        setpriv --reuid "$SUDO_UID" --regid "${SUDO_GID:-$SUDO_UID}" --init-groups -- "$ROOT/.ci/${0##*/}" "$@"
fi

# Run one command as root; nothing of Python's caches is written into the checkout by it.
elevate() {
    if [ "$(id -u)" = 0 ]; then
        PYTHONDONTWRITEBYTECODE=1 "$@"
    elif command -v sudo >/dev/null; then
        sudo -- env PYTHONDONTWRITEBYTECODE=1 "$@"
    else
        die "root is needed for: $*" "run as root, or install sudo"
    fi
}

can_elevate() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# at_least HAVE WANT: compare dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Caches of cargo and pip live in the checkout when the user has none yet, so that `make clean` is whole.
if [ -z "${CARGO_HOME:-}" ] && [ ! -d "${HOME:-/nonexistent}/.cargo" ]; then export CARGO_HOME=$CACHE/cargo; fi
if [ -z "${PIP_CACHE_DIR:-}" ] && [ ! -d "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/pip" ]; then
    export PIP_CACHE_DIR=$CACHE/pip
fi
# A private Rust (see .ci/setup) is used where the machine's own is too old.
if [ -x "$CACHE/rust/bin/rustc" ]; then PATH=$CACHE/rust/bin:$PATH; fi
export PATH
