#!/usr/bin/env python3
"""`make bench`: pitrd beside pgBackRest, pg_receivewal, pg_basebackup and bare reads of MongoDB, in one run on one machine.

Every figure is the median of five; competitors take turns, so that a slow minute hits all of them. Ratios are what
counts: seconds depend on the machine.

  PITRD_BENCH_RUNS    repetitions (5)
  PITRD_BENCH_SCALE   pgbench scale; 65 makes a cluster of about 1 GB (65); ten times as much for s3
  PITRD_BENCH_WAL_MB  WAL to catch up with (1024); three times as much for s3
  PITRD_BENCH_ONLY    comma-separated parts: catchup, tps, durable, backup (with restore), replay, mongodb, s3, calls (of an
                      object store in an hour); all by default
"""

import os
import re
import shutil
import subprocess
import sys
import time

import mongodb
import objects
import ours
import peers
from machine import Scratch, Server, median, run, say

RUNS = int(os.environ.get("PITRD_BENCH_RUNS", "5"))
PARTS = set(os.environ.get("PITRD_BENCH_ONLY", "catchup,tps,durable,backup,replay,mongodb,s3,calls").split(","))
SCALE = int(os.environ.get("PITRD_BENCH_SCALE", "65"))
WAL_MB = int(os.environ.get("PITRD_BENCH_WAL_MB", "1024"))
# Stores far away: so much more, so that a second's work is not held against the rounds of its first and last calls. A restore has
# about seven of them, 0.7 s at 100 ms, whatever its size.
WAL_TIMES_FAR, SCALE_TIMES_FAR = 3, 10
CODECS = [("zst", 1), ("zst", 3), ("lz4", None)]
SETTINGS = ["shared_buffers=512MB", "max_wal_size=20GB", "wal_keep_size=20GB", "checkpoint_timeout=1h",
            "max_wal_senders=10", "max_replication_slots=60", "autovacuum=off"]

table = []


def row(what, ours_is, peer, peer_is, ratio, goal, good):
    table.append((what, ours_is, peer, peer_is, ratio, goal, "yes" if good else "NO"))
    say("  {:<34} {:>14}  {:<26} {:>14}  {:>7}  {:<12} {}".format(*table[-1]))


def collect(competitors):
    """name → the figures of each run, the competitors taking turns."""
    figures = {name: [] for name in competitors}
    for _ in range(RUNS):
        for name, measure in competitors.items():
            figures[name].append(measure())
    return figures


class Wal:
    """A stretch of pgbench WAL on the server, with a slot at its start."""

    def __init__(self, server, megabytes):
        self.server = server
        self.copies = 0
        server.sql("checkpoint")
        first = server.sql("select pg_walfile_name(pg_switch_wal())")
        server.sql("select pg_create_physical_replication_slot('origin', true)")
        start = server.sql("select pg_current_wal_lsn()")
        options = ["env", "PGOPTIONS=-c synchronous_commit=off"]
        while int(server.sql(f"select (pg_current_wal_lsn() - '{start}')::bigint")) < megabytes << 20:
            run(options + server.client("pgbench") + ["-n", "-c", "8", "-j", "2", "-t", "2000", "postgres"])
        self.end = server.sql("select pg_switch_wal()")
        server.sql("checkpoint")
        last = server.sql(f"select pg_walfile_name('{self.end}')")
        names = sorted(os.listdir(os.path.join(server.data, "pg_wal")))
        self.segments = [name for name in names if len(name) == 24 and first < name <= last]
        self.megabytes = int(server.sql(f"select ('{self.end}' - '{start}'::pg_lsn)::bigint")) / 1e6

    def slot(self):
        self.copies += 1
        name = f"copy{self.copies}"
        self.server.sql(f"select pg_copy_physical_replication_slot('origin', '{name}')")
        return name

    def used(self, slot):
        self.server.sql(f"select pg_drop_replication_slot('{slot}')")


def bench_catch_up(scratch, server, wal):
    peaks, stored = [], []

    def pitrd(files):
        def measure():
            slot = wal.slot()
            seconds, peak, size = ours.catch_up(scratch, server, slot, wal.end, files)
            peaks.append(peak)
            stored.append(size)
            wal.used(slot)
            return seconds
        return measure

    def receivewal():
        slot = wal.slot()
        seconds = peers.receive(scratch, server, slot, wal.end)
        wal.used(slot)
        return seconds

    def pgbackrest(codec, level):
        def measure():
            peer = peers.PgBackRest(scratch, server, codec, level)
            seconds = peer.archive(wal.segments)
            peer.remove()
            return seconds
        return measure

    own = {"stream": pitrd(False), "files": pitrd(True)}
    competitors = own | {"pg_receivewal": receivewal}
    competitors |= {f"pgBackRest {c}:{l or ''}".rstrip(":"): pgbackrest(c, l) for c, l in CODECS}
    rates = {name: median([wal.megabytes / s for s in f]) for name, f in collect(competitors).items()}
    for way in own:
        own_rate = rates.pop(way)
        for peer, rate in rates.items():
            if peer in own:
                continue
            goal = 1.0 if peer == "pg_receivewal" else 2.0
            row(f"catch-up by {way}, MB/s", f"{own_rate:.0f}", peer, f"{rate:.0f}", f"{own_rate / rate:.2f}",
                f">= {goal}", own_rate / rate >= goal)
    peak = max(peaks) / 1048576
    row("memory of pitrd during it, MiB", f"{peak:.0f}", "", "", "", "< 96", peak < 96)
    say(f"  {wal.megabytes:.0f} MB of WAL became {median(stored) / 1e6:.0f} MB in the archive")


def bench_throughput(scratch, server):
    # One archive for all runs: a new slot begins at the last checkpoint, and streaming is what is measured, not the writing of a
    # gigabyte to the same disk just before.
    pitrd = ours.Pitrd(scratch, server, "load")

    def with_pitrd():
        pitrd.start()
        pitrd.wait_durable(server.sql("select pg_current_wal_flush_lsn()"))
        tps = ours.throughput(server, 15)
        pitrd.stop()
        return tps

    with_pitrd()
    figures = collect({"without": lambda: ours.throughput(server, 15), "with": with_pitrd})
    own, peer = median(figures["with"]), median(figures["without"])
    row("pgbench with pitrd, tps", f"{own:.0f}", "without", f"{peer:.0f}", f"{own / peer:.3f}", ">= 0.97",
        own / peer >= 0.97)
    pitrd.remove()
    server.sql("select pg_drop_replication_slot('load')")


def bench_object_store(scratch, server, wal):
    """The same WAL and the same backup into a directory and into stores that are 0, 20 and 100 ms away (objects.py says which).

    What a store takes of our cores shows at 0 ms, what latency costs in the rows against that."""
    def measure(make, delay):
        def run_once():
            slot = wal.slot()
            store = make and make(scratch, delay)
            try:
                return ours.Streamed(scratch, server, slot, wal.end, store)
            finally:
                if store:
                    store.stop()
                wal.used(slot)
        return run_once

    competitors = {("directory", 0): measure(None, 0)}
    competitors |= {("own", delay): measure(objects.Own, delay) for delay in (0, 20, 100)}
    competitors |= {("ministack", delay): measure(objects.Ministack, delay) for delay in (20, 100)}
    figures = collect(competitors)
    say(f"  {wal.megabytes:.0f} MB of WAL")

    def figure(who, what):
        return median(getattr(streamed, what) for streamed in figures[who])

    for what in ("catch_up", "restore"):
        name, near = what.replace("_", "-"), figure(("directory", 0), what)
        for who in list(figures)[1:]:
            store, delay = who
            goal = ">= 0.9" if store == "own" and delay else ""
            far = figure(who, what)
            row(f"{name}, s, {store} {delay} ms", f"{far:.2f}", "directory", f"{near:.2f}", f"{near / far:.2f}", goal,
                not goal or near / far >= 0.9)
            row("  CPU s, and of the store", f"{figure(who, what + '_cpu'):.2f}, {figure(who, what + '_store'):.2f}", "directory",
                f"{figure(('directory', 0), what + '_cpu'):.2f}", "", "", True)


def count_calls(scratch, server):
    store = objects.Own(scratch, 20)
    try:
        for linger, seconds in (("1s", 30), ("10s", 60), ("60s", 180)):
            calls = ours.calls_an_hour(scratch, server, f"calls{linger}", store, linger, seconds)
            said = ", ".join(f"{number:.0f} {method}" for method, number in sorted(calls.items()))
            row(f"calls an hour, linger {linger}", said, "", "", "", "", True)
            server.sql(f"select pg_drop_replication_slot('calls{linger}')")
    finally:
        store.stop()


def bench_durability(scratch, server):
    p50, p99, rates = [], [], []
    for number in range(RUNS):
        waits, tps = ours.durability(scratch, server, f"durable{number}", 2000, 15)
        server.sql(f"select pg_drop_replication_slot('durable{number}')")
        p50.append(waits[len(waits) // 2])
        p99.append(waits[len(waits) * 99 // 100])
        rates.append(tps)
    row("commit to durable p50, ms", f"{median(p50):.0f}", f"at {median(rates):.0f} tps, linger", "200 ms", "", "", True)
    row("commit to durable p99, ms", f"{median(p99):.0f}", f"at {median(rates):.0f} tps, linger", "200 ms", "", "< 500",
        median(p99) < 500)


def bench_backup_and_restore(scratch, server):
    pitrd = ours.Pitrd(scratch, server, "backup")
    pitrd.start()
    backups, restores = {"pitr-tool": [], "pg_basebackup raw": []}, {"pitr-tool": []}
    for _ in range(RUNS):
        backups["pitr-tool"].append(ours.backup(pitrd))
        restores["pitr-tool"].append(ours.restore(pitrd))
        backups["pg_basebackup raw"].append(peers.raw_tar(scratch, server))
        for codec, level in (CODECS[0], CODECS[2]):
            peer = peers.PgBackRest(scratch, server, codec, level)
            backups.setdefault(peer.name, []).append(peer.backup())
            restores.setdefault(peer.name, []).append(peer.restore())
            peer.remove()
    size = int(server.sql("select sum(pg_database_size(oid)) from pg_database")) / 1e6
    say(f"  the cluster has {size:.0f} MB")
    for what, figures in (("base backup, s", backups), ("restore, s", restores)):
        own = median(figures.pop("pitr-tool"))
        for peer, values in figures.items():
            theirs = median(values)
            if what.startswith("restore"):
                ratio, goal, good = theirs / own, ">= 2", theirs / own >= 2
            elif peer == "pg_basebackup raw":
                ratio, goal, good = own / theirs, "<= 1.3", own / theirs <= 1.3
            else:
                ratio, goal, good = theirs / own, "(about 2)", True
            row(what, f"{own:.2f}", peer, f"{theirs:.2f}", f"{ratio:.2f}", goal, good)
    pitrd.remove()
    server.sql("select pg_drop_replication_slot('backup')")


def replayed(scratch, data, name, more):
    """Seconds of redo, by the server's own log, until recovery ends at its target. What the preparation wrote is on the disk before:
    its writing back would be measured with whoever syncs."""
    os.sync()
    server = Server(scratch, name, data=data, settings=["shared_buffers=512MB", "max_wal_size=20GB"])
    log = scratch.path(f"{name}.log")
    if os.path.exists(log):
        os.remove(log)
    server.start(wait=False, more=["recovery_target_action=promote", *more])
    start = time.monotonic()
    while True:
        with open(log, encoding="utf-8") as lines:
            said = lines.read()
        done = re.search(r"redo done at .*elapsed: ([0-9.]+) s", said)
        if done:
            break
        if not server.process.runs() or time.monotonic() - start > 600:
            sys.exit(f"bench: replay did not end:\n{said[-3000:]}")
        time.sleep(0.1)
    while "ready to accept connections" not in said and server.process.runs():
        time.sleep(0.1)
        with open(log, encoding="utf-8") as lines:
            said = lines.read()
    server.stop()
    return float(done.group(1))


def bench_replay(scratch, server, keeper, wal):
    keeper.start()
    keeper.wait_durable(wal.end)
    keeper.stop()

    def prepared():
        shutil.rmtree(scratch.path("replay"), ignore_errors=True)
        ours.restore(keeper, keep="replay")
        return scratch.path("replay")

    def through_wal_fetch():
        return replayed(scratch, prepared(), "fetching", [])

    def all_in_pg_wal():
        data = prepared()
        for name in os.listdir(os.path.join(server.data, "pg_wal")):
            if len(name) == 24:
                copy = os.path.join(data, "pg_wal", name)
                shutil.copy(os.path.join(server.data, "pg_wal", name), copy)
                scratch.own(copy)
        return replayed(scratch, data, "local", ["restore_command=false"])

    figures = collect({"wal-fetch": through_wal_fetch, "pg_wal": all_in_pg_wal})
    own, limit = median(figures["wal-fetch"]), median(figures["pg_wal"])
    row("replay through wal-fetch, s", f"{own:.2f}", "all WAL in pg_wal", f"{limit:.2f}", f"{own / limit:.2f}", "<= 1.10",
        own / limit <= 1.10)


def machine():
    model = subprocess.run(["sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"], capture_output=True,
                           text=True).stdout.strip()
    return f"{os.cpu_count()} cores ({model}), load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"


def bench_postgres(scratch):
    server = Server(scratch, "primary", settings=SETTINGS)
    try:
        say("bench: PostgreSQL 15, fsync on; pgBackRest with 2 processes and AES-256")
        server.start()
        say("bench: filling the server")
        server.pgbench("-i", "-q", "-s", SCALE)
        keeper = ours.Pitrd(scratch, server, "keeper")
        keeper.start()
        if "backup" in PARTS:
            bench_backup_and_restore(scratch, server)
        if "replay" in PARTS:
            ours.backup(keeper)
        keeper.stop()
        if {"catchup", "replay"} & PARTS:
            say("bench: writing WAL")
            wal = Wal(server, WAL_MB)
            if "catchup" in PARTS:
                bench_catch_up(scratch, server, wal)
            if "replay" in PARTS:
                bench_replay(scratch, server, keeper, wal)
        if "tps" in PARTS:
            bench_throughput(scratch, server)
        if "durable" in PARTS:
            bench_durability(scratch, server)
    finally:
        server.stop()
        shutil.rmtree(server.data)


def bench_far(scratch):
    # What the filling writes is not kept: the slot keeps what is measured.
    server = Server(scratch, "source", settings=[*SETTINGS, "max_wal_size=2GB", "wal_keep_size=0"])
    try:
        say("bench: object stores; filling a server")
        server.start()
        server.pgbench("-i", "-q", "-s", SCALE * SCALE_TIMES_FAR)
        if "s3" in PARTS:
            bench_object_store(scratch, server, Wal(server, WAL_MB * WAL_TIMES_FAR))
        if "calls" in PARTS:
            count_calls(scratch, server)
    finally:
        server.stop()
        shutil.rmtree(server.data)


def main():
    scratch = Scratch()
    say(f"bench: {machine()}; medians of {RUNS}")
    try:
        if PARTS - {"mongodb", "s3", "calls"}:
            bench_postgres(scratch)
        if PARTS & {"s3", "calls"}:
            bench_far(scratch)
        if "mongodb" in PARTS:
            mongodb.bench(scratch, collect, row)
    finally:
        scratch.remove()
    say("\n| work | pitrd | against | figure | ratio | goal | met |\n|---|---|---|---|---|---|---|")
    for cells in table:
        say("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
