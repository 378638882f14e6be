"""The peers: pgBackRest (two processes, AES), pg_receivewal, pg_basebackup."""

import os
import shutil
import time

from machine import run, timed

STANZA = "bench"


class PgBackRest:
    """A repository in a directory, encrypted with AES-256-CBC, async archiving with two processes."""

    def __init__(self, scratch, server, codec, level=None):
        self.scratch, self.server = scratch, server
        self.name = f"pgBackRest {codec}" + (f":{level}" if level else "")
        self.home = scratch.fresh("pgbackrest")
        for directory in ("repo", "spool", "lock", "log"):
            scratch.fresh(f"pgbackrest/{directory}")
        lines = [
            "[global]", f"repo1-path={self.home}/repo", "repo1-cipher-type=aes-256-cbc",
            "repo1-cipher-pass=a-benchmark-has-no-secrets", f"spool-path={self.home}/spool",
            f"lock-path={self.home}/lock", f"log-path={self.home}/log", "log-level-console=error",
            "log-level-file=off", f"compress-type={codec}", "process-max=2", "archive-async=y",
            "start-fast=y", "archive-check=n", "archive-push-queue-max=100GB",
            f"[{STANZA}]", f"pg1-path={server.data}", f"pg1-port={server.port}",
            f"pg1-socket-path={scratch.root}", "pg1-user=postgres",
        ]
        if level:
            lines.insert(1, f"compress-level={level}")
        self.config = scratch.write("pgbackrest/pgbackrest.conf", "\n".join(lines) + "\n")
        self.run("stanza-create")

    def command(self, *arguments):
        return ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", *arguments]

    def run(self, *arguments):
        return run(self.command(*arguments), home=self.scratch.root)

    def archive(self, segments):
        """Seconds to push every segment, called the way the server's archiver calls it: one after the other."""
        status = os.path.join(self.server.data, "pg_wal", "archive_status")
        for segment in segments:
            path = os.path.join(status, f"{segment}.ready")
            with open(path, "w", encoding="ascii"):
                pass
            self.scratch.own(path)
        start = time.monotonic()
        for segment in segments:
            self.run("archive-push", os.path.join(self.server.data, "pg_wal", segment))
        seconds = time.monotonic() - start
        for segment in segments:
            os.remove(os.path.join(status, f"{segment}.ready"))
        return seconds

    def backup(self):
        return timed(self.command("backup", "--type=full"), home=self.scratch.root)

    def restore(self):
        into = self.scratch.fresh("pgbackrest-restored")
        seconds = timed(self.command("restore", f"--pg1-path={into}", "--type=immediate"), home=self.scratch.root)
        shutil.rmtree(into)
        return seconds

    def remove(self):
        shutil.rmtree(self.home)


def receive(scratch, server, slot, end):
    """Seconds that pg_receivewal takes from the slot's start to `end`; raw files, no encryption."""
    into = scratch.fresh("receivewal")
    arguments = server.client("pg_receivewal") + ["-D", into, "--slot", slot, "--endpos", end, "--no-loop"]
    seconds = timed(arguments, home=scratch.root)
    shutil.rmtree(into)
    return seconds


def raw_tar(scratch, server):
    """Seconds of pg_basebackup into an uncompressed tar."""
    into = scratch.fresh("basebackup")
    arguments = server.client("pg_basebackup") + ["-Ft", "-D", into, "-X", "none", "-c", "fast"]
    seconds = timed(arguments, home=scratch.root)
    shutil.rmtree(into)
    return seconds
