# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the user sees: one line per phase that did something, with its duration.

say() { printf 'setup: %s\n' "$*"; }

# Milliseconds since the epoch, without a process.
now_ms() { printf '%s' "${EPOCHREALTIME/[.,]/}" | cut -c1-13; }

SETUP_START=$(now_ms)

# seconds_since START_MS
seconds_since() {
    local passed=$(($(now_ms) - $1))
    printf '%d.%d' $((passed / 1000)) $((passed % 1000 / 100))
}

# phase TEXT COMMAND...: run the command into the log, tell how long it took.
# Descriptor 9 is the lock of this setup; no child may keep it.
phase() {
    local text=$1 start status=0
    shift
    start=$(now_ms)
    say "$text ..."
    # Not `if ! "$@"`: that would switch `set -e` off inside the command.
    set +e
    (set -e && "$@") >>.state/setup.log 2>&1 9>&-
    status=$?
    set -e
    if [[ $status -ne 0 ]]; then
        say "$text FAILED after $(seconds_since "$start") s; the end of .state/setup.log:"
        tail -n 40 .state/setup.log >&2
        exit 1
    fi
    say "$text: $(seconds_since "$start") s"
}

# stamped NAME KEY: was the phase NAME last done with this KEY?
stamped() { [[ -f .state/$1.stamp && $(<".state/$1.stamp") == "$2" ]]; }

stamp() { printf '%s\n' "$2" >".state/$1.stamp"; }
