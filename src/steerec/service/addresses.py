"""The addresses a service listens on, taken before anything that takes long."""

import errno
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from steerec.config import ServiceConfig
from steerec.errors import ConfigError

BACKLOG = 2_048
UNUSABLE = (OSError, UnicodeError)  # the latter of names that none can have
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # such as ::1 of a host without IPv6


def taken(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, bound: nobody is answered before `listen`.

    Args:
        host: address or name; empty: all addresses of this machine.
        port: 0: any free one, the same for all.
    Raises:
        ConfigError: if another has the port, or the host is not of this machine.
    """
    made: list[socket.socket] = []
    try:
        addresses = _addresses(host, port)
        for at, (family, address) in enumerate(addresses, 1):
            free = made[0].getsockname()[1] if made else port
            try:
                made.append(bound(family, (address[0], free, *address[2:]), both=False))
            except OSError as e:
                if e.errno not in _NOT_HERE or (at == len(addresses) and not made):
                    raise
    except UNUSABLE as e:
        for one in made:
            one.close()
        raise refused(host, port, e) from e
    return made


def listen(sockets: Iterable[socket.socket]) -> None:
    """Let callers in; they wait until they are answered.

    Raises:
        ConfigError: if another took the port at the same moment.
    """
    for one in sockets:
        try:
            one.listen(BACKLOG)
        except OSError as e:
            host, port = one.getsockname()[:2]
            raise refused(host, port, e) from e


def bound(family: int, address: Any, *, alone: bool = True, both: bool = True) -> socket.socket:
    """A socket with an address.

    Args:
        alone: whether nobody else may have the address; else those who say so, too.
        both: whether `::` stands for all addresses of IPv4, too.
    """
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and not both:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def refused(host: str, port: int, error: Exception) -> ConfigError:
    """What to do about an address that cannot be had."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        remedy = "stop what listens there, or choose another port (--port, service.port)"
    elif number == errno.EACCES:
        remedy = "ports below 1024 are not for every user: choose another (--port, service.port)"
    else:
        remedy = "choose an address of this machine (--host, service.host)"
    return ConfigError(f"host={host!r}, port={port} cannot be listened on ({error}): {remedy}")


def check_certificate(service: ServiceConfig) -> None:
    """Read the certificate and its key once, if TLS is asked for.

    Raises:
        ConfigError: if they are missing, are no PEM files, or do not belong together.
    """
    if service.tls_certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            service.tls_certificate, service.tls_key
        )
    except OSError as e:  # SSLError is one
        raise ConfigError(
            f"tls_certificate={service.tls_certificate}, tls_key={service.tls_key}: they cannot be "
            f"used ({e}): expected readable PEM files of a certificate and of its key"
        ) from e


def _addresses(host: str, port: int) -> Sequence[tuple[int, Any]]:
    """Family and address, each once, in the order in which they are to be tried."""
    told = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in told))
