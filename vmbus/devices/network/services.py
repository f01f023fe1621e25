"""The servers of an embedded network: TCP and UDP echo (port 7), TCP discard (port 9), TCP source (port 19).

The source sends :data:`SOURCE_BYTES` bytes and closes. Byte ``p`` of them is ``(7 * p + 13 * (p >> 8) + 5 * (p >>
16)) & 0xff``, so that whoever receives them, in any language, can check each by its position.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from vmbus.inet.connection import TcpConnection
from vmbus.inet.host import InetHost

ECHO_PORT: Final = 7
DISCARD_PORT: Final = 9
SOURCE_PORT: Final = 19
SOURCE_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 16


def install_services(host: InetHost) -> None:
    """Let the host serve the three ports."""
    host.tcp.listen(ECHO_PORT, _Echo)
    host.tcp.listen(DISCARD_PORT, _Discard)
    host.tcp.listen(SOURCE_PORT, _Source)
    host.listen_udp(ECHO_PORT, lambda address, port, data: host.send_udp(address, port, ECHO_PORT, data))


@cache
def _first_chunk() -> bytes:
    return bytes((7 * p + 13 * (p >> 8)) & 0xFF for p in range(_CHUNK))


@cache
def pattern_chunk(number: int) -> bytes:
    """64 KiB of the source's pattern: those from ``number * 65536`` on. They repeat after 256."""
    shift = 5 * number & 0xFF
    return _first_chunk().translate(bytes((value + shift) & 0xFF for value in range(256)))


def pattern(start: int, length: int) -> bytes:
    """``length`` bytes of the source's pattern from position ``start`` on."""
    first, last = start // _CHUNK, (start + length + _CHUNK - 1) // _CHUNK
    whole = b"".join(pattern_chunk(number % 256) for number in range(first, last))
    return whole[start - first * _CHUNK :][:length]


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


class _Source:
    """Sends the pattern, and closes."""

    def __init__(self, connection: TcpConnection) -> None:
        self._position = 0
        connection.on_writable = self._fill
        connection.on_readable = lambda connection: connection.skip(connection.available)
        self._fill(connection)

    def _fill(self, connection: TcpConnection) -> None:
        while connection.room and self._position < SOURCE_BYTES:
            chunk = memoryview(pattern_chunk(self._position // _CHUNK % 256))[self._position % _CHUNK :]
            self._position += connection.write(chunk)
        if self._position == SOURCE_BYTES:
            connection.close()
