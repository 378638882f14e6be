"""Object stores on loopback that are so many milliseconds away, and count their calls.

The goal speaks of an S3 server with time added to each call. A store that is far away takes none of our cores; one on loopback does, and
what it takes would be held against us. So the rows with a goal are measured against one of our own, `pitr-bench-store`: in memory, the
delay built in, the condition of a put honoured, the checksum verified and told. ministack, Python behind a proxy, is the second
opinion: it takes a good part of the two cores. What each takes is printed beside the rows.
"""

import http.client
import json
import os
import subprocess
import sys
import time

import ours
from machine import SERVERS, cpu_seconds, free_port

BUCKET = "archives"


class ObjectStore:
    """`program` prints its port, then the calls so far for each line that it is sent."""

    def __init__(self, scratch, name, program, *arguments):
        self.credentials = scratch.write(f"credentials-{name}", "[default]\naws_access_key_id = bench\n"
                                         "aws_secret_access_key = not-a-secret\n")
        binary = os.path.join(ours.BIN, program)
        if not os.path.exists(binary):
            sys.exit(f"bench: {binary} is missing: run `make release`")
        self.front = subprocess.Popen([binary, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.front.stdout.readline())

    def url(self, prefix):
        return (f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"
                f"&credentials_file={self.credentials}")

    def calls(self):
        """Calls so far, by method."""
        self.front.stdin.write("\n")
        self.front.stdin.flush()
        return json.loads(self.front.stdout.readline())

    def cpu_seconds(self):
        return cpu_seconds(self.front.pid)

    def stop(self):
        self.front.stdin.close()
        self.front.wait(timeout=60)


class Own(ObjectStore):
    """In memory; it has every bucket."""

    def __init__(self, scratch, delay_ms):
        super().__init__(scratch, f"own{delay_ms}", "pitr-bench-store", delay_ms)


class Ministack(ObjectStore):
    """ministack with one bucket behind the proxy of the tests."""

    def __init__(self, scratch, delay_ms):
        name = f"ministack{delay_ms}"
        home = scratch.fresh(name)
        package = os.path.join(SERVERS, "ministack")
        if not os.path.exists(package):
            sys.exit(f"bench: {package} is missing: run `make deps`")
        port = free_port()
        environment = dict(os.environ, PYTHONPATH=package, GATEWAY_PORT=str(port), BIND_HOST="127.0.0.1", SERVICES="s3",
                           LOG_LEVEL="ERROR", TMPDIR=home)
        with open(os.path.join(home, "log"), "w", encoding="utf-8") as log:
            self.server = subprocess.Popen([sys.executable, "-m", "ministack"], env=environment, cwd=home, stdout=log,
                                           stderr=log)
        self.make_bucket(port)
        super().__init__(scratch, name, "pitr-latency-proxy", port, delay_ms)

    @staticmethod
    def make_bucket(port):
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("PUT", f"/{BUCKET}")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("bench: the object store does not answer")

    def cpu_seconds(self):
        """Of the store and the proxy."""
        return cpu_seconds(self.server.pid) + super().cpu_seconds()

    def stop(self):
        super().stop()
        self.server.terminate()
        self.server.wait(timeout=60)
