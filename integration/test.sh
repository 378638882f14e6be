#!/usr/bin/env bash
# Runs every test of the workspace and closes with what the runner said of each test program.
# Usage: integration/test.sh THREADS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
status=0
"${CARGO:-cargo}" test --workspace --locked --no-fail-fast -- --test-threads "$1" 2>&1 | tee "$log" || status=$?

echo
echo "--- closing lines"
grep -aE '^(     Running|   Doc-tests|test result:|test .* FAILED)' "$log" || true
grep -acE '^test .* \.\.\. ok$' "$log" | sed 's/$/ tests passed/' || true
grep -acE '^test .* \.\.\. FAILED$' "$log" | sed 's/$/ tests failed/' || true
if ! grep -aqE '^test result: ' "$log"; then
    echo "no test ran"
    status=1
fi
exit "$status"
