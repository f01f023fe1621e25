"""A client of the Network Block Device protocol: one connection, many requests under way, from several threads.

Fixed newstyle negotiation with NBD_OPT_GO, simple replies, no TLS. A thread reads the replies and wakes whoever waits.
Storage that is larger than a machine, and image formats, are reached through servers that speak NBD.

Source: the protocol's own document, ``doc/proto.md`` of github.com/NetworkBlockDevice/nbd; tested against ``qemu-nbd``
and ``nbdkit``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Sequence
from enum import IntEnum, IntFlag

from vmbus.devices.storage.backend import BackendError
from vmbus.devices.storage.buffers import advance

_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698

_FIXED_NEWSTYLE = 1
_NO_ZEROES = 2
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_REP_ERROR = 1 << 31
_INFO_EXPORT = 0
_INFO_BLOCK_SIZE = 3

_GREETING = struct.Struct(">QQH")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

MAX_OPTION_REPLY = 1 << 16
CONNECT_TIMEOUT = 10.0


class Command(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class ExportFlags(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    FLUSH = 4
    FUA = 8
    TRIM = 32
    WRITE_ZEROES = 64
    MULTI_CONNECTION = 256


FUA = 1
"""Flag of a request: complete it when the data is durable."""

NO_HOLE = 2
"""Flag of a WRITE_ZEROES: keep the space."""


class _Waiting:
    """A request that is under way."""

    __slots__ = ("done", "error", "views")

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views
        self.done = threading.Event()
        self.error = 0


class NbdConnection:
    """A connection in its transmission phase. Safe for several threads; everything raises ``OSError``."""

    def __init__(self, address: str | tuple[str, int], export: str = "") -> None:
        """Connect to a Unix socket's path, or to a host and port. Raises also :class:`BackendError`."""
        self.export = export
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            self._socket = socket.create_connection(address, CONNECT_TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.settimeout(CONNECT_TIMEOUT)
            if isinstance(address, str):
                self._socket.connect(address)
            self.size, self.flags, self.min_block = self._negotiate()
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise
        self.is_alive = True
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._sending = threading.Lock()
        threading.Thread(target=self._read_replies, name="vmbus-nbd", daemon=True).start()

    # Negotiation

    def _negotiate(self) -> tuple[int, ExportFlags, int]:
        magic, option_magic, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != _MAGIC or option_magic != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
            raise BackendError("what listens there is no NBD server of the fixed newstyle")
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES))
        name = self.export.encode()
        body = struct.pack(f">I{len(name)}sHH", len(name), name, 1, _INFO_BLOCK_SIZE)
        self._socket.sendall(struct.pack(">QII", _OPTION_MAGIC, _OPT_GO, len(body)) + body)
        size, export_flags, block = 0, ExportFlags(0), 1
        while True:
            magic, option, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            if magic != _OPTION_REPLY_MAGIC or option != _OPT_GO or length > MAX_OPTION_REPLY:
                raise BackendError("the NBD server answers with something else than was asked")
            data = self._receive(length)
            if kind == _REP_ACK:
                return size, export_flags, block
            if kind >= _REP_ERROR:
                text = data.decode("utf-8", "replace").strip() or f"error {kind - _REP_ERROR}"
                raise BackendError(f"the NBD server refuses the export {self.export!r}: {text}")
            if kind == _REP_INFO and length >= 12 and data[:2] == _INFO_EXPORT.to_bytes(2, "big"):
                size, raw_flags = struct.unpack_from(">QH", data, 2)
                export_flags = ExportFlags(raw_flags)
            elif kind == _REP_INFO and length >= 14 and data[:2] == _INFO_BLOCK_SIZE.to_bytes(2, "big"):
                (block,) = struct.unpack_from(">I", data, 2)

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._receive_into([memoryview(data)])
        return bytes(data)

    def _receive_into(self, views: Sequence[memoryview]) -> None:
        rest = [view for view in views if len(view)]
        while rest:
            count = self._socket.recvmsg_into(rest)[0] if len(rest) > 1 else self._socket.recv_into(rest[0])
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "the NBD server has closed the connection")
            rest = advance(rest, count)

    # Transmission

    def request(
        self, command: Command, offset: int, length: int, *, flags: int = 0, views: Sequence[memoryview] = ()
    ) -> None:
        """Send one request and wait until it is done. ``views`` are written from, or filled for a READ."""
        waiting = _Waiting(views if command == Command.READ else ())
        with self._sending:
            if not self.is_alive:
                raise ConnectionResetError(errno.ECONNRESET, "the connection to the NBD server is lost")
            self._next += 1
            handle = self._next
            self._waiting[handle] = waiting
            head = _REQUEST.pack(_REQUEST_MAGIC, flags, command, handle, offset, length)
            try:
                self._send([memoryview(head), *(views if command == Command.WRITE else ())])
            except OSError:
                self._lose()
                raise
        waiting.done.wait()
        if waiting.error:
            raise OSError(waiting.error, f"the NBD server says: {os.strerror(waiting.error)}")

    def _send(self, views: Sequence[memoryview]) -> None:
        rest = list(views)
        while rest:
            rest = advance(rest, self._socket.sendmsg(rest[:1024]))

    def _read_replies(self) -> None:
        try:
            while True:
                magic, error, handle = _REPLY.unpack(self._receive(_REPLY.size))
                waiting = self._waiting.pop(handle, None)
                if magic != _REPLY_MAGIC or waiting is None:
                    raise ConnectionResetError(errno.ECONNRESET, "the NBD server sends replies that nobody asked for")
                try:
                    if not error and waiting.views:
                        self._receive_into(waiting.views)
                    waiting.error = error
                except OSError:
                    waiting.error = errno.ECONNRESET
                    raise
                finally:
                    waiting.done.set()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """The connection is gone: everybody who waits hears of it."""
        self.is_alive = False
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        while self._waiting:
            try:
                _, waiting = self._waiting.popitem()
            except KeyError:  # the other thread was quicker
                break
            waiting.error = errno.ECONNRESET
            waiting.done.set()

    def interrupt(self) -> None:
        """Fail whatever waits."""
        self._lose()

    def close(self) -> None:
        """Say goodbye and close the socket."""
        with self._sending:
            if self.is_alive:
                try:
                    self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
                except OSError:
                    pass
        self._lose()
        self._socket.close()
