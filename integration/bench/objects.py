"""An object store on loopback behind a proxy that adds time to each call and counts them."""

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
    """ministack with one bucket, `delay_ms` away."""

    def __init__(self, scratch, delay_ms):
        home = scratch.fresh(f"store{delay_ms}")
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
        self.credentials = scratch.write(f"store{delay_ms}/credentials", "[default]\naws_access_key_id = bench\n"
                                         "aws_secret_access_key = not-a-secret\n")
        self.proxy = subprocess.Popen([os.path.join(ours.BIN, "pitr-latency-proxy"), str(port), str(delay_ms)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.proxy.stdout.readline())

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

    def url(self, prefix):
        return (f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"
                f"&credentials_file={self.credentials}")

    def calls(self):
        """Calls so far, by method."""
        self.proxy.stdin.write("\n")
        self.proxy.stdin.flush()
        return json.loads(self.proxy.stdout.readline())

    def cpu_seconds(self):
        """Of the store and the proxy."""
        return cpu_seconds(self.server.pid) + cpu_seconds(self.proxy.pid)

    def stop(self):
        self.proxy.stdin.close()
        self.proxy.wait(timeout=60)
        self.server.terminate()
        self.server.wait(timeout=60)
