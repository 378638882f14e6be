"""Processes, directories and servers for the benchmarks. Standard library only."""

import os
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

SERVERS = os.environ.get("PITRD_SERVERS", "/var/tmp/pitrd-servers")


def say(text):
    print(text, flush=True)


def account():
    """The servers' account when we are root (PostgreSQL refuses root), else None."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def as_account(arguments):
    user = account()
    prefix = ["setpriv", "--pdeathsig", "KILL"]
    if user:
        prefix += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return prefix + ["--"] + [str(a) for a in arguments]


def environment(home):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return {**kept, "HOME": str(home), "LC_ALL": "C"}


def run(arguments, home="/tmp", check=True, **options):
    """Runs a command as the servers' account; returns its standard output."""
    done = subprocess.run(as_account(arguments), env=environment(home), cwd="/", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if check and done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def timed(arguments, **options):
    start = time.monotonic()
    run(arguments, **options)
    return time.monotonic() - start


def measured(arguments, home):
    """Runs a command; returns what it printed, its seconds, its CPU seconds, and its peak of resident bytes."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(as_account(arguments), env=environment(home), cwd="/", text=True,
                                 stdout=subprocess.PIPE, stderr=errors)
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            sys.exit(f"bench: {' '.join(map(str, arguments))}: exit {child.returncode}\n{said}\n{errors.read()}")
    return said, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def cpu_seconds(pid):
    """CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def median(values):
    return statistics.median(values)


class Scratch:
    """A directory that disappears with the benchmark."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="pitrd-bench-", dir=os.environ.get("PITRD_SCRATCH"))
        os.chmod(self.root, 0o755)
        self.own(self.root)

    def own(self, path):
        user = account()
        if user:
            os.chown(path, user.pw_uid, user.pw_gid)

    def path(self, name):
        return os.path.join(self.root, name)

    def fresh(self, name):
        """An empty directory, mode 0700."""
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path, mode=0o700)
        self.own(path)
        return path

    def write(self, name, text, mode=0o600):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        self.own(path)
        return path

    def remove(self):
        if os.environ.get("PITRD_KEEP"):
            say(f"kept: {self.root}")
        else:
            shutil.rmtree(self.root, ignore_errors=True)


class Process:
    """A child stopped by its own id."""

    def __init__(self, arguments, log, home):
        self.log = log
        self.child = subprocess.Popen(as_account(arguments), env=environment(home), cwd="/",
                                      stdin=subprocess.DEVNULL, stdout=open(log, "a"), stderr=subprocess.STDOUT)

    def stop(self, how=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(how)
            self.child.wait(timeout=120)

    def runs(self):
        return self.child.poll() is None

    def cpu_seconds(self):
        return cpu_seconds(self.child.pid)

    def peak_resident(self):
        """Bytes."""
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


class Server:
    """PostgreSQL with production durability (fsync on). Everybody connects through its unix socket, as on a host they share."""

    def __init__(self, scratch, name, major=15, data=None, settings=()):
        self.scratch, self.name = scratch, name
        self.bin = os.path.join(SERVERS, f"pg{major}", "bin")
        if not os.path.exists(self.program("postgres")):
            sys.exit(f"bench: {self.program('postgres')} is missing: run `make deps`")
        self.port = free_port()
        self.process = None
        self.data = data
        self.settings = list(settings)
        if data is None:
            self.data = scratch.fresh(name)
            run([self.program("initdb"), "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8",
                 "--data-checksums", "--no-instructions", "-D", self.data])

    def program(self, name):
        return os.path.join(self.bin, name)

    def start(self, wait=True, more=()):
        arguments = [self.program("postgres"), "-D", self.data]
        fixed = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.scratch.root}"]
        for setting in fixed + self.settings + list(more):
            arguments += ["-c", setting]
        self.process = Process(arguments, self.scratch.path(f"{self.name}.log"), self.scratch.root)
        while wait and not self.answers():
            if not self.process.runs():
                sys.exit(f"bench: {self.name} did not start: see {self.process.log}")
            time.sleep(0.05)

    def answers(self):
        return subprocess.run(as_account(self.client("psql") + ["-qAtc", "select 1"]), cwd="/",
                              env=environment(self.scratch.root), capture_output=True).returncode == 0

    def stop(self, how=signal.SIGINT):
        if self.process:
            self.process.stop(how)
            self.process = None

    def client(self, program):
        flags = ["-h", self.scratch.root, "-p", str(self.port), "-U", "postgres"]
        return [self.program(program)] + flags

    def sql(self, statement):
        return run(self.client("psql") + ["-d", "postgres", "-qAtc", statement]).strip()

    def pgbench(self, *arguments):
        return run(self.client("pgbench") + list(arguments) + ["postgres"])

    def connection(self):
        return f"host={self.scratch.root} port={self.port} user=postgres dbname=postgres"
