"""The live capture on a Unix socket: any number of attachers, each of which reads a pcapng stream of its own.

An attacher gets a prologue with a snapshot of the state, whenever it comes, and then everything. One that reads too
slowly never holds up the others or the recording: what finds no room in its buffer is dropped and counted, and when
it reads again it gets a note with the count, the interfaces it missed, and a fresh snapshot.
"""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

from vmbus.capture import encode
from vmbus.capture.assembly import Assembled, Assembler, split
from vmbus.unix_socket import listen_at
from vmbus.wire.capture import NoteKind

BUFFER_SIZE = 8 << 20
"""Bytes that may wait for one attacher."""


class _Attacher:
    """One reader of the stream."""

    def __init__(self, connection: socket.socket, buffer_size: int) -> None:
        self.socket = connection
        self._buffer_size = buffer_size
        self._waiting = bytearray()
        self._lost = 0
        self._interfaces = 0

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def begin(self, assembler: Assembler) -> None:
        self._waiting += assembler.prologue()
        self._interfaces = assembler.interface_count

    def offer(self, assembler: Assembler, assembled: Assembled) -> None:
        """Take blocks if there is room for them; count them if not."""
        is_full = bool(self._waiting) and len(self._waiting) + len(assembled.packets) > self._buffer_size
        if self._lost or is_full:
            self._lost += _count(assembled.packets)
        else:
            self._waiting += assembler.interfaces(self._interfaces)
            self._waiting += assembled.packets
            self._interfaces = assembler.interface_count

    def catch_up(self, assembler: Assembler) -> None:
        """If the reader missed something and has now read all that waited, tell it, and the state as it is now."""
        if not self._lost or self._waiting:
            return
        text = f"{self._lost} records were dropped: the reader of this stream was too slow"
        self._waiting += assembler.interfaces(self._interfaces)
        self._waiting += encode.note(time.time_ns(), NoteKind.PROBLEM, text, self._lost)
        self._waiting += b"".join(assembler.state.blocks())
        self._interfaces = assembler.interface_count
        self._lost = 0

    def send(self) -> bool:
        """Send what the socket takes; False when the reader is gone."""
        try:
            while self._waiting:
                sent = self.socket.send(memoryview(self._waiting)[: 1 << 20])
                del self._waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


class StreamServer:
    """Serves attachers on a Unix socket, inside the writer process's poll loop."""

    def __init__(
        self, assembler: Assembler, path: Path, poller: select.epoll, *, buffer_size: int = BUFFER_SIZE
    ) -> None:
        self._assembler = assembler
        self._path = path
        self._poller = poller
        self._buffer_size = buffer_size
        self._attachers: dict[int, _Attacher] = {}
        self._listener = listen_at(path)
        poller.register(self._listener.fileno(), select.EPOLLIN)

    def write(self, assembled: Assembled) -> None:
        for attacher in list(self._attachers.values()):
            attacher.offer(self._assembler, assembled)
            self._send(attacher)

    def finish(self, lost: int) -> None:
        """Give the attachers a moment to read what waits for them, then what they missed and the end of the section."""
        epilogue = Assembled(b"", bytearray(self._assembler.epilogue(lost)))
        for attacher in list(self._attachers.values()):
            attacher.socket.settimeout(2.0)
            if attacher.send():
                attacher.catch_up(self._assembler)
                attacher.offer(self._assembler, epilogue)
                attacher.send()
            self._leave(attacher)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def on_event(self, fd: int, events: int) -> bool:
        """Serve one of our descriptors; False if it is not ours."""
        if fd == self._listener.fileno():
            self._accept()
            return True
        attacher = self._attachers.get(fd)
        if attacher is None:
            return False
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._leave(attacher)
        else:
            self._send(attacher)
        return True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        attacher = _Attacher(connection, self._buffer_size)
        attacher.begin(self._assembler)
        self._attachers[connection.fileno()] = attacher
        self._poller.register(connection.fileno(), 0)
        self._send(attacher)

    def _send(self, attacher: _Attacher) -> None:
        is_there = attacher.send()
        if is_there:
            attacher.catch_up(self._assembler)
            is_there = attacher.send()
        if is_there:
            self._poller.modify(attacher.socket.fileno(), select.EPOLLOUT if attacher.has_waiting else 0)
        else:
            self._leave(attacher)

    def _leave(self, attacher: _Attacher) -> None:
        fd = attacher.socket.fileno()
        if self._attachers.pop(fd, None) is not None:
            self._poller.unregister(fd)
            attacher.socket.close()


def _count(chunk: bytearray) -> int:
    return sum(1 for _ in split(chunk))
