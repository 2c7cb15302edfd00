"""`steerec serve` in a process of its own, for tests that kill it, fill it or read its logs."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START = "from steerec.cli import main; main()"
SETTINGS = """
[deployment]
database_url = "{url}"

[encoder]
encoder = "{encoder}"

[service]
metrics_port = {metrics_port}
tune_hour = -1
refit_hour = -1
refit_events = 1_000_000_000
compiled = false  # the kernels of a fresh checkout would be compiled by every server at once
{service}
"""


class Server:
    """A service that starts from nothing, and never fits: a refit would outlive a kill.

    Args:
        service: more lines for `[service]` and the tables below it.
        url: of the store; None: a file of SQLite in the folder.
        trusted: PEM file of the certificate it shows; None: it speaks plain HTTP.
        encoder: of texts, by name.
        environment: variables that it has beside ours.
        flags: more words of the command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        service="",
        url=None,
        trusted=None,
        encoder="none",
        environment=None,
        flags=(),
    ):
        self.port, self.metrics_port = free_ports(2)
        self.settings = folder / "steerec.toml"
        self.url = url or f"sqlite:///{folder}/store.db"
        self.settings.write_text(
            SETTINGS.format(
                url=self.url, metrics_port=self.metrics_port, service=service, encoder=encoder
            )
        )
        self.log = folder / "log.jsonl"
        self.folder, self.environment, self.flags = folder, environment or {}, flags
        self.tls = None if trusted is None else ssl.create_default_context(cafile=trusted)
        self.base = f"{'http' if trusted is None else 'https'}://127.0.0.1:{self.port}"

    def start(self):
        words = ["serve", "--port", str(self.port), "--config", str(self.settings), *self.flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
            )
        try:
            self._until_it_answers()
        except BaseException:
            self.kill()  # also where the test is over its time
            raise

    def _until_it_answers(self):
        until = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError):
                self.call("/api/health/live")
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()

    def call(self, path, body=None, *, timeout_s=10, **headers):
        data = None if body is None else json.dumps(body).encode()
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        headers = {"Content-Type": "application/json", **told}
        asked = urllib.request.Request(f"{self.base}{path}", data, headers)
        with urllib.request.urlopen(asked, timeout=timeout_s, context=self.tls) as answer:
            return json.loads(answer.read())

    def metric(self, name, **labels):
        """The value of one metric."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (
            line
            for line in lines
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items())
        )
        return float(line.rsplit(" ", 1)[1])


def free_ports(n):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
