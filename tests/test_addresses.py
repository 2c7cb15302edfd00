"""Where a service listens: it has its address before it does anything that takes long."""

import socket
import subprocess
import sys

import pytest

from served import START
from steerec.errors import ConfigError
from steerec.service.addresses import listen, taken


def closed(sockets):
    for one in sockets:
        one.close()


def test_a_port_that_another_has_ends_serve_at_once_with_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = [sys.executable, "-c", START, "serve", "--port", str(port)]
        told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    assert told.stdout == ""  # so it was never said to be ready
    error, hint = told.stderr.splitlines()
    assert error.startswith(f"error: host='127.0.0.1', port={port} cannot be listened on")
    assert "stop what listens there, or choose another port (--port, service.port)" in error
    assert hint.startswith("(steerec --debug")
    assert not list(tmp_path.iterdir())  # nothing was opened or loaded before


def test_a_free_port_is_the_same_for_every_address_of_a_name():
    sockets = taken("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        assert "127.0.0.1" in {one.getsockname()[0] for one in sockets}
        with pytest.raises(ConnectionRefusedError):  # nobody waits before it can answer
            socket.create_connection(sockets[0].getsockname()[:2], timeout=5)
        listen(sockets)
        socket.create_connection(sockets[0].getsockname()[:2], timeout=5).close()
    finally:
        closed(sockets)


def test_of_two_that_take_a_port_at_the_same_moment_one_is_told():
    first = taken("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = taken("127.0.0.1", port)  # as the first does not listen yet
    try:
        listen(first)
        with pytest.raises(ConfigError, match=f"port={port} cannot be listened on .* choose"):
            listen(second)
    finally:
        closed([*first, *second])


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 64])
def test_a_host_that_is_not_of_this_machine_is_told(host):
    with pytest.raises(ConfigError, match=r"choose an address of this machine \(--host"):
        taken(host, 0)
