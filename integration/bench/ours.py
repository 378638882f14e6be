"""pitrd and pitr-tool under the same loads as the peers."""

import os
import shutil
import signal
import sys
import time

from machine import Process, measured, run, timed

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
BIN = os.environ.get("PITRD_BIN_DIR", os.path.join(TARGET, "release"))


def built(scratch, program):
    """A copy of a program where the servers' account may run it."""
    source, copy = os.path.join(BIN, program), scratch.path(program)
    if not os.path.exists(source):
        sys.exit(f"bench: {source} is missing: run `make release`")
    if not os.path.exists(copy):
        shutil.copy(source, copy)
        os.chmod(copy, 0o755)
    return copy


class Pitrd:
    """One archive in a directory: zstd:1, encrypted for a public key."""

    def __init__(self, scratch, server, name, linger="1s", source_lines="", settings="", url=None, source=None):
        source = source or f"""[source.postgres]
connection = "{server.connection()} application_name={name}"
slot = "{name}"
{source_lines}"""
        self.scratch, self.server, self.name = scratch, server, name
        self.home = scratch.fresh(name)
        for program in ("pitrd", "pitr-tool"):
            built(scratch, program)
        scratch.fresh(f"{name}/archive")
        said = run([scratch.path("pitr-tool"), "keygen", "--out", f"{self.home}/identity"], home=scratch.root)
        recipient = next(word for word in said.split() if word.startswith("x25519:"))
        self.config = scratch.write(f"{name}/pitrd.toml", f"""
[archive]
url = "{url or f'file://{self.home}/archive'}"
[encryption]
recipients = ["{recipient}"]
{source}
[segment]
bytes_max = "16 MiB"
linger = "{linger}"
compression = "zstd:1"
{settings}
""")
        self.process = None
        self.tool("init")

    def command(self, *arguments):
        return [self.scratch.path("pitr-tool"), "--config", self.config, "--identity", f"{self.home}/identity",
                *arguments]

    def tool(self, *arguments):
        return run(self.command(*arguments), home=self.scratch.root)

    def start(self, wait=True):
        self.process = Process([self.scratch.path("pitrd"), "--config", self.config], f"{self.home}/log",
                               self.scratch.root)
        if wait:
            self.wait(f"select active from pg_replication_slots where slot_name = '{self.name}'")

    def wait(self, condition, limit="300s"):
        """Until the server finds it true. One session asks: a client started for each look would take a share of a core from us."""
        loop = f"do $$ begin while ({condition}) is not true loop perform pg_sleep(0.002); end loop; end $$"
        asking = Process(self.server.client("psql") + ["-d", "postgres", "-qAtc", f"set statement_timeout = '{limit}'", "-c",
                                                       loop], f"{self.home}/asking.log", self.scratch.root)
        if asking.child.wait() != 0:
            sys.exit(f"bench: pitrd did not get there: {condition}\n{open(self.home + '/log').read()[-3000:]}")

    def wait_durable(self, lsn):
        self.wait(f"select restart_lsn >= '{lsn}' from pg_replication_slots where slot_name = '{self.name}'")

    def stop(self):
        if self.process:
            self.process.stop(signal.SIGTERM)
            self.process = None

    def stored(self):
        total = 0
        for directory, _, names in os.walk(f"{self.home}/archive"):
            total += sum(os.path.getsize(os.path.join(directory, name)) for name in names)
        return total

    def remove(self):
        self.stop()
        shutil.rmtree(self.home)


def catch_up(scratch, server, slot, end, files):
    """By the stream, or from the server's files: (seconds from the start of the process to durable, peak resident bytes, bytes stored)."""
    lines = f'wal_directory = "{server.data}/pg_wal"' if files else ""
    pitrd = Pitrd(scratch, server, slot, source_lines=lines)
    start = time.monotonic()
    pitrd.start(wait=False)
    pitrd.wait_durable(end)
    seconds = time.monotonic() - start
    peak, stored = pitrd.process.peak_resident(), pitrd.stored()
    pitrd.remove()
    return seconds, peak, stored


class Streamed:
    """Seconds from the begin of streaming to durable, and of a restore; for each the CPU seconds of ours and of what stands in for the
    store; puts_in_flight is 16."""

    def __init__(self, scratch, server, slot, end, store=None):
        def of_store():
            return store.cpu_seconds() if store else 0

        pitrd = Pitrd(scratch, server, slot, settings="puts_in_flight = 16", url=store and store.url(slot))
        pitrd.start()
        start, before = time.monotonic(), of_store()
        pitrd.wait_durable(end)
        self.catch_up = time.monotonic() - start
        self.catch_up_cpu, self.catch_up_store = pitrd.process.cpu_seconds(), of_store() - before
        pitrd.tool("backup")
        before, into = of_store(), scratch.path("pitr-restored")
        command = pitrd.command("restore", "--to", "immediate", "--into", into)
        _, self.restore, self.restore_cpu, _ = measured(command, scratch.root)
        self.restore_store = of_store() - before
        shutil.rmtree(into)
        pitrd.remove()


def calls_an_hour(scratch, server, name, store, linger, seconds):
    """Calls of the store in an hour under a steady load, by method, counted for so many seconds."""
    pitrd = Pitrd(scratch, server, name, linger=linger, url=store.url(name))
    pitrd.start()
    load = Process(server.client("pgbench") + ["-n", "-c", "2", "-j", "1", "-R", "50", "-T", str(seconds + 5),
                                               "postgres"], scratch.path("load.log"), scratch.root)
    time.sleep(3)
    before = store.calls()
    time.sleep(seconds)
    after = store.calls()
    load.child.wait()
    pitrd.remove()
    return {method: (after[method] - before.get(method, 0)) * 3600 / seconds for method in after}


def throughput(server, seconds):
    """Transactions per second of pgbench, as fast as it can."""
    said = server.pgbench("-n", "-c", "8", "-j", "2", "-T", str(seconds))
    line = next(line for line in said.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


SAMPLER = """
create or replace function sample_durability(slot text, seconds float8)
returns table (at float8, flushed pg_lsn, durable pg_lsn) language plpgsql as $$
declare stop timestamptz := clock_timestamp() + seconds * interval '1 second';
begin
  while clock_timestamp() < stop loop
    select extract(epoch from clock_timestamp()), pg_current_wal_flush_lsn(),
           (select r.flush_lsn from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
            where s.slot_name = slot) into at, flushed, durable;
    return next;
    perform pg_sleep(0.004);
  end loop;
end $$"""


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def durability(scratch, server, slot, rate, seconds):
    """Milliseconds from flushed at the server to durable in the archive at a steady load: sorted samples, tps."""
    pitrd = Pitrd(scratch, server, slot, linger="200ms")
    pitrd.start()
    server.sql(SAMPLER)
    load = Process(server.client("pgbench") + ["-n", "-c", "16", "-j", "1", "-R", str(rate), "-T", str(seconds + 6),
                                               "postgres"], scratch.path("load.log"), scratch.root)
    time.sleep(3)
    rows = server.sql(f"select * from sample_durability('{slot}', {seconds})").splitlines()
    load.child.wait()
    with open(scratch.path("load.log"), encoding="utf-8") as log:
        tps = [float(line.split()[2]) for line in log if line.startswith("tps")][-1]
    pitrd.remove()
    samples = [(float(at), lsn(flushed), lsn(durable)) for at, flushed, durable in (row.split("|") for row in rows)]
    waits, j = [], 0
    for at, flushed, _ in samples:
        while j < len(samples) and samples[j][2] < flushed:
            j += 1
        if j == len(samples):
            break
        waits.append(max(0.0, samples[j][0] - at) * 1000)
    return sorted(waits), tps


def backup(pitrd):
    return timed(pitrd.command("backup"), home=pitrd.scratch.root)


def restore(pitrd, keep=None):
    """Seconds of a restore to the backup's own end; the directory stays when it has a name."""
    into = pitrd.scratch.path(keep or "pitr-restored")
    seconds = timed(pitrd.command("restore", "--to", "immediate" if not keep else "latest", "--into", into),
                    home=pitrd.scratch.root)
    if not keep:
        shutil.rmtree(into)
    return seconds

