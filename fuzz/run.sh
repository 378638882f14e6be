#!/bin/sh
# Runs every fuzz target for so many seconds: ./run.sh SECONDS [TARGET…]. JOBS targets run at a time (1).
# Needs a nightly compiler and cargo-fuzz. What it learns stays in corpus/, what it breaks lies in artifacts/.
set -eu
cd "$(dirname "$0")"
seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
if [ $# -eq 0 ]; then
    # shellcheck disable=SC2046  # one word for each target
    set -- $(cargo +nightly fuzz list)
fi
cargo +nightly fuzz build

# Real bytes to begin with, where the repository has some.
seeds() {
    case $1 in
    object) echo ../tests/vectors/good ;;
    signed_document) echo ../tests/vectors/documents ;;
    wal_bytes) echo ../engines/postgres/src/wal/testdata ;;
    certificate) echo ../engines/postgres/src/connect/testdata ;;
    esac
    [ -d "seeds/$1" ] && echo "seeds/$1"
    return 0
}

# No search for leaks: a thread that has been joined may still be in its last destructors, which looks like one.
one() {
    mkdir -p "corpus/$1"
    # shellcheck disable=SC2046  # one word for each directory
    cargo +nightly fuzz run "$1" "corpus/$1" $(seeds "$1") -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 -verbosity=0 -detect_leaks=0 -print_final_stats=1 \
        >"artifacts/$1.log" 2>&1
}

mkdir -p artifacts
failed=
running=0
for target in "$@"; do
    (one "$target" && echo "$target: held for $seconds s" || {
        echo "$target: FAILED"
        tail -n 40 "artifacts/$target.log"
        touch "artifacts/$target.failed"
    }) &
    running=$((running + 1))
    if [ "$running" -ge "${JOBS:-1}" ]; then
        wait
        running=0
    fi
done
wait
for target in "$@"; do
    if [ -e "artifacts/$target.failed" ]; then
        rm "artifacts/$target.failed"
        failed="$failed $target"
    fi
done
[ -z "$failed" ] || {
    echo "failed:$failed"
    exit 1
}
