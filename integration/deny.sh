#!/bin/sh
# Checks what is linked into the programs against deny.toml. Installs cargo-deny where it is missing. Advisories are checked where their
# database can be fetched; everything else needs no network.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
if ! "$cargo" deny --version >/dev/null 2>&1; then
    echo "cargo-deny is missing: installing it with 'cargo install --locked cargo-deny'"
    nice -n 19 "$cargo" install --locked cargo-deny
fi
if "$cargo" deny fetch db; then
    "$cargo" deny --locked check --disable-fetch
else
    echo "the advisory database cannot be fetched from here: advisories are NOT checked"
    "$cargo" deny --locked check bans licenses sources
fi
