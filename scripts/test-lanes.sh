#!/usr/bin/env bash
# Runs groups of tests beside each other, one pytest for each argument (paths, and options of pytest): most flow tests
# wait for a server, while unit tests keep a processor busy. The first group's output is shown as it comes; what the
# others said stands after it, whole where they failed, and in build/test-*.log.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
markers="not slow and not conformance"
lanes=("$@")
# A place of its own for each: a pytest that starts closes the common one (/tmp/pytest-of-...) to other users, and the
# database of another, which does not run as root, is shut out of its own files.
place=$(mktemp -d /tmp/wetread-test.XXXXXX)
trap 'rm -rf "$place"' EXIT
pids=()
for number in "${!lanes[@]}"; do
    # A group may be several words.
    # shellcheck disable=SC2086
    .venv/bin/pytest ${lanes[$number]} -m "$markers" --basetemp "$place/$number" >"build/test-$number.log" 2>&1 &
    pids+=($!)
done
tail -n +1 -f --pid="${pids[0]}" build/test-0.log &
failed=0
for number in "${!lanes[@]}"; do
    if wait "${pids[$number]}"; then lines=3; else failed=1 lines=400; fi
    if [ "$number" -gt 0 ] || [ "$lines" -gt 3 ]; then
        echo "=== ${lanes[$number]} (build/test-$number.log)"
        tail -n "$lines" "build/test-$number.log"
    fi
done
exit "$failed"
