"""The servers of an embedded network: echo (TCP and UDP port 7), discard (9), source (19) and digest (90).

The source sends :data:`SOURCE_BYTES` bytes of the pattern of seed 19 (``vmbus.inet.pattern``) and closes. The digest
server takes a stream and answers, at its end, with its SHA-256 in hexadecimal. The Linux guest's test
program speaks to all of them: ``stream-echo tcp:10.7.0.1:7``, ``stream-receive tcp:10.7.0.1:19 67108864 19``,
``stream-send tcp:10.7.0.1:90``.
"""

from __future__ import annotations

import hashlib
from typing import Final

from vmbus.inet.connection import TcpConnection
from vmbus.inet.host import InetHost
from vmbus.inet.pattern import pattern

ECHO_PORT: Final = 7
DISCARD_PORT: Final = 9
SOURCE_PORT: Final = 19
DIGEST_PORT: Final = 90
SOURCE_SEED: Final = 19
SOURCE_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 18


def install_services(host: InetHost) -> None:
    """Let the host serve these ports."""
    host.tcp.listen(ECHO_PORT, _Echo)
    host.tcp.listen(DISCARD_PORT, _Discard)
    host.tcp.listen(SOURCE_PORT, _Source)
    host.tcp.listen(DIGEST_PORT, _Digest)
    host.listen_udp(ECHO_PORT, lambda address, port, data: host.send_udp(address, port, ECHO_PORT, data))


class _Echo:
    """Sends back what comes, and closes when the peer has."""

    def __init__(self, connection: TcpConnection) -> None:
        connection.on_readable = connection.on_writable = self._pump

    def _pump(self, connection: TcpConnection) -> None:
        count = min(connection.available, connection.room)
        if count:
            connection.write(connection.read(count))
        if connection.at_end:
            connection.close()


class _Discard:
    """Throws away what comes."""

    def __init__(self, connection: TcpConnection) -> None:
        connection.on_readable = self._drop

    def _drop(self, connection: TcpConnection) -> None:
        connection.skip(connection.available)
        if connection.at_end:
            connection.close()


class _Digest:
    """Answers a stream with its digest."""

    def __init__(self, connection: TcpConnection) -> None:
        self._digest = hashlib.sha256()
        connection.on_readable = self._take

    def _take(self, connection: TcpConnection) -> None:
        self._digest.update(connection.read())
        if connection.at_end:
            connection.write(self._digest.hexdigest().encode())
            connection.close()


class _Source:
    """Sends the pattern, and closes."""

    def __init__(self, connection: TcpConnection) -> None:
        self._position = 0
        connection.on_writable = self._fill
        connection.on_readable = lambda connection: connection.skip(connection.available)
        self._fill(connection)

    def _fill(self, connection: TcpConnection) -> None:
        while connection.room and self._position < SOURCE_BYTES:
            size = min(_CHUNK, connection.room, SOURCE_BYTES - self._position)
            self._position += connection.write(pattern(SOURCE_SEED, size, self._position))
        if self._position == SOURCE_BYTES:
            connection.close()
