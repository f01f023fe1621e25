"""A disk behind an NBD server: ``nbd:unix:PATH``, ``nbd:HOST:PORT``, each with ``,export=NAME``, or an NBD URI.

A lost connection fails the requests that were under way; the next request connects again.
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from vmbus.devices.storage.backend import Backend, BackendError, BadBackendName
from vmbus.devices.storage.buffers import Views, total_length
from vmbus.devices.storage.nbd_client import FUA, NO_HOLE, Command, ExportFlags, NbdConnection

DEFAULT_PORT = 10809

_CHUNK = 1 << 30
"""The most bytes of one TRIM or WRITE_ZEROES; a request's length has 32 bits."""


class NbdBackend(Backend):
    """An export of a server. Its requests run in worker threads, over one connection."""

    parallel = 16

    def __init__(self, address: str | tuple[str, int], export: str = "", *, read_only: bool = False) -> None:
        """``address`` is a Unix socket's path, or host and port. Raises ``OSError`` or :class:`BackendError`."""
        self._address = address
        self._export = export
        self._connecting = threading.Lock()
        self._closing = False
        self._connection = connection = NbdConnection(address, export)
        self.block_size = max(512, connection.min_block)
        self.size = connection.size & -self.block_size
        if not self.size:
            connection.close()
            raise BackendError(f"the NBD export {export!r} is too small for a disk")
        self.read_only = read_only or ExportFlags.READ_ONLY in connection.flags
        self.can_discard = not self.read_only and ExportFlags.TRIM in connection.flags
        self.connects = 1

    def _connected(self) -> NbdConnection:
        connection = self._connection
        if connection.is_alive:
            return connection
        with self._connecting:
            if not self._connection.is_alive and not self._closing:
                connection = NbdConnection(self._address, self._export)
                if connection.size < self.size:
                    connection.close()
                    raise OSError(5, "the NBD export has become smaller")
                self._connection.close()
                self._connection = connection
                self.connects += 1
            return self._connection

    def read_into(self, views: Views, offset: int) -> None:
        self._connected().request(Command.READ, offset, total_length(views), views=views)

    def write_from(self, views: Views, offset: int) -> None:
        self._connected().request(Command.WRITE, offset, total_length(views), views=views)

    def write_durably(self, views: Views, offset: int) -> None:
        connection = self._connected()
        if ExportFlags.FUA in connection.flags:
            connection.request(Command.WRITE, offset, total_length(views), flags=FUA, views=views)
        else:
            super().write_durably(views, offset)

    def flush(self) -> None:
        connection = self._connected()
        if ExportFlags.FLUSH in connection.flags:
            connection.request(Command.FLUSH, 0, 0)

    def discard(self, offset: int, length: int) -> None:
        self._in_chunks(Command.TRIM, offset, length)

    def write_zeroes(self, offset: int, length: int) -> None:
        if ExportFlags.WRITE_ZEROES in self._connected().flags:
            self._in_chunks(Command.WRITE_ZEROES, offset, length, NO_HOLE)
        else:
            super().write_zeroes(offset, length)

    def _in_chunks(self, command: Command, offset: int, length: int, flags: int = 0) -> None:
        end = offset + length
        while offset < end:
            size = min(_CHUNK, end - offset)
            self._connected().request(command, offset, size, flags=flags)
            offset += size

    def inspect(self) -> dict[str, Any]:
        where = self._address if isinstance(self._address, str) else "{}:{}".format(*self._address)
        return {
            **super().inspect(),
            "server": where,
            "export": self._export,
            "connected": self._connection.is_alive,
            "connects": self.connects,
        }

    def interrupt(self) -> None:
        self._closing = True
        self._connection.interrupt()

    def close(self) -> None:
        self._closing = True
        self._connection.close()


def parse_server(params: str) -> tuple[str | tuple[str, int], str]:
    """The address and the export's name in what follows ``nbd:``. Raises :class:`BadBackendName`."""
    if params.startswith(("//", "+unix://")):
        uri = urlsplit("nbd" + ("" if params.startswith("+") else ":") + params)
        export = unquote(uri.path.lstrip("/"))
        if uri.scheme == "nbd+unix":
            sockets = parse_qs(uri.query).get("socket", [])
            if len(sockets) != 1:
                raise BadBackendName(f"nbd{params} names no socket: nbd+unix:///EXPORT?socket=PATH")
            return sockets[0], export
        try:
            return (uri.hostname or "localhost", uri.port or DEFAULT_PORT), export
        except ValueError as error:
            raise BadBackendName(f"nbd:{params}: {error}") from error
    where, _, export = params.partition(",export=")
    if where.startswith("unix:"):
        return where[5:], export
    host, colon, port = where.rpartition(":")
    if not colon:
        host, port = where, str(DEFAULT_PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadBackendName(f"nbd:{params} is no server: nbd:unix:PATH or nbd:HOST:PORT, and ,export=NAME")
    return (host.strip("[]"), int(port)), export


def open_params(params: str, read_only: bool) -> NbdBackend:
    """Connect to the server that ``params`` names."""
    address, export = parse_server(params)
    return NbdBackend(address, export, read_only=read_only)
