"""The hybrid-vsock convention: how AF_VSOCK ports are Unix sockets on the host.

Who wants a port of the guest connects to PATH, writes ``CONNECT port`` and a newline, and is answered ``OK port`` (the
connection's own port) and a newline; a refused connection is closed without a word. When the guest connects to a port,
the host connects to ``PATH_port``. Instead of a port there may be a whole service id, in both places; if ``PATH_port``
does not exist, ``PATH_service`` is tried.

Sources: Firecracker's ``docs/vsock.md``; openvmm ``support/hybrid_vsock/src/lib.rs``.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from uuid import UUID

from vmbus.errors import VmbusError
from vmbus.wire.hvsocket import port_of_service, service_of_port

_REQUEST = re.compile(rb"connect ([0-9]{1,10}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\r?", re.IGNORECASE)

MAX_REQUEST = len("CONNECT 00000000-facb-11e6-bd58-64006a7986d3\r\n")
"""Bytes of the longest line."""


class BadConnectRequest(VmbusError):
    """The first line is not ``CONNECT`` and a port."""


class ConnectRequest(NamedTuple):
    """Which service of the guest somebody wants."""

    service_id: UUID
    by_port: bool
    """The service was named as a port, and so is the answer."""

    def accepted(self, endpoint_id: UUID) -> bytes:
        """What is answered when the guest has accepted."""
        return f"OK {endpoint_id.fields[0] if self.by_port else endpoint_id}\n".encode()


def parse_connect(line: bytes) -> ConnectRequest:
    """Read a first line, without its newline.  Raises ``BadConnectRequest``."""
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise BadConnectRequest(f"{line[:60]!r} is not CONNECT and a port")
    named = match[1].decode()
    if not named.isdigit():
        return ConnectRequest(UUID(named), by_port=False)
    if int(named) > 0xFFFFFFFF:
        raise BadConnectRequest(f"there is no port {named}")
    return ConnectRequest(service_of_port(int(named)), by_port=True)


def listener_paths(base: str, service_id: UUID) -> list[str]:
    """Where somebody may listen for the guest's connections to a service, the first choice first."""
    port = port_of_service(service_id)
    return [f"{base}_{name}" for name in (port, service_id) if name is not None]
