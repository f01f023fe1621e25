"""The smallest host that a real guest accepts, written from docs/partition-protocol.md alone, for tests of the shim.

It answers the hello and register reads, keeps register writes, puts VMBus' three unavoidable answers (version response,
all offers delivered, unload response) into the guest's message slot, and records everything. No devices.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HELLO, SET_REGISTER, GET_REGISTER, POST_MESSAGE, SIGNAL_EVENT, NOTE = range(1, 7)
REPLY = 0x8000
HEADER = struct.Struct("<IHHII")
HELLO_BODY = struct.Struct("<IHHQQQII16s")

SCONTROL, SIEFP, SIMP, EOM, SINT2 = 0x40000080, 0x40000082, 0x40000083, 0x40000084, 0x40000092
TIME_REF_COUNT, CRASH_CTL = 0x40000020, 0x40000105

REQUEST_OFFERS, ALL_OFFERS, INITIATE_CONTACT, VERSION_RESPONSE, UNLOAD, UNLOAD_RESPONSE = 3, 4, 14, 15, 16, 17


@dataclass
class Frame:
    op: int
    vp: int
    sequence: int
    body: bytes


@dataclass
class Hello:
    features: int
    memory_size: int
    first_gpa: int
    vp_count: int
    last_sequence: int
    guest_id: bytes


class FakeHost:
    """Listens at ``path`` and serves guests, one after another, in a thread until :meth:`close`."""

    def __init__(
        self, path: Path, *, hello_status: int = 0, on_frame: Callable[[FakeHost, Frame], bool] | None = None
    ) -> None:
        self.path = path
        self.hello_status = hello_status
        #: Called with each frame before it is handled; returning False leaves it without an answer.
        self.on_frame = on_frame
        self.hellos: list[Hello] = []
        self.frames: list[Frame] = []
        self.registers: dict[int, int] = {}
        self.log: list[str] = []
        self.contacted = threading.Event()
        self.offers_requested = threading.Event()
        self.unloaded = threading.Event()
        self.gone = threading.Event()
        self.memory: mmap.mmap | None = None
        self.interrupt_kind = ""
        self._interrupt = -1
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Close the connection, as a host that dies does, and go on listening."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        self.drop()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def messages(self) -> list[int]:
        """The VMBus message types that the guest has posted, in order."""
        return [struct.unpack_from("<I", f.body, 16)[0] for f in self.frames if f.op == POST_MESSAGE]

    def _serve(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._serve_guest(self._connection)
            except (OSError, EOFError):
                pass
            finally:
                self._connection.close()
                if self._interrupt >= 0:
                    os.close(self._interrupt)
                    self._interrupt = -1
                self.gone.set()

    def _serve_guest(self, connection: socket.socket) -> None:
        head, fds, _, _ = socket.recv_fds(connection, HEADER.size, 2)
        head += self._receive(connection, HEADER.size - len(head))
        length, op, status, vp, sequence = HEADER.unpack(head)
        body = self._receive(connection, length - HEADER.size)
        memory_fd, self._interrupt = fds
        self.interrupt_kind = os.readlink(f"/proc/self/fd/{self._interrupt}")
        assert (op, status, vp, sequence) == (HELLO, 0, 0, 0)
        magic, major, minor, *rest = HELLO_BODY.unpack(body)
        assert (magic, major, minor) == (0x50424D56, 1, 0)
        hello = Hello(*rest)
        self.hellos.append(hello)
        assert os.fstat(memory_fd).st_size == hello.memory_size
        self.memory = mmap.mmap(memory_fd, hello.memory_size)
        os.close(memory_fd)
        self._reply(connection, HELLO, 0, struct.pack("<HHIQQ", 1, 0, 0, hello.features, 0), self.hello_status)
        while True:
            length, op, _, vp, sequence = HEADER.unpack(self._receive(connection, HEADER.size))
            frame = Frame(op, vp, sequence, self._receive(connection, length - HEADER.size))
            if self.on_frame is not None and not self.on_frame(self, frame):
                continue
            self.frames.append(frame)
            self._handle(connection, frame)

    def _handle(self, connection: socket.socket, frame: Frame) -> None:
        if frame.op == SET_REGISTER:
            msr, _, value = struct.unpack("<IIQ", frame.body)
            self.registers[msr] = value
        elif frame.op == GET_REGISTER:
            msr, _ = struct.unpack("<II", frame.body)
            value = {TIME_REF_COUNT: time.monotonic_ns() // 100, CRASH_CTL: 3 << 62}.get(
                msr, self.registers.get(msr, 0)
            )
            self._reply(connection, frame.op, frame.sequence, struct.pack("<Q", value))
        elif frame.op == POST_MESSAGE:
            _connection_id, message_type, size, _ = struct.unpack_from("<IIII", frame.body)
            payload = frame.body[16:]
            assert message_type == 1 and len(payload) == size
            self._reply(connection, frame.op, frame.sequence, struct.pack("<Q", 0))
            self._answer(struct.unpack_from("<I", payload)[0])
        elif frame.op == NOTE:
            self.log.append(frame.body[4:].decode())

    def _answer(self, message_type: int) -> None:
        if message_type == INITIATE_CONTACT:
            self._deliver(struct.pack("<IIBB2xI", VERSION_RESPONSE, 0, 1, 0, 4))
            self.contacted.set()
        elif message_type == REQUEST_OFFERS:
            self._deliver(struct.pack("<II", ALL_OFFERS, 0))
            self.offers_requested.set()
        elif message_type == UNLOAD:
            self._deliver(struct.pack("<II", UNLOAD_RESPONSE, 0))
            self.unloaded.set()

    def _deliver(self, payload: bytes) -> None:
        """Put a message into SINT2's slot of the SIMP page once that is free, and raise the interrupt."""
        assert self.memory is not None and self.registers[SIMP] & 1
        slot = (self.registers[SIMP] & ~0xFFF) + 2 * 256
        deadline = time.monotonic() + 60
        while struct.unpack_from("<I", self.memory, slot)[0] and time.monotonic() < deadline:
            time.sleep(0.001)
        self.memory[slot + 4 : slot + 16 + len(payload)] = struct.pack("<BBHQ", len(payload), 0, 0, 0) + payload
        memoryview(self.memory)[slot : slot + 4].cast("I")[0] = 1
        os.write(self._interrupt, struct.pack("<Q", 1))

    @staticmethod
    def _reply(connection: socket.socket, op: int, sequence: int, body: bytes, status: int = 0) -> None:
        connection.sendall(HEADER.pack(HEADER.size + len(body), op | REPLY, status, 0, sequence) + body)

    @staticmethod
    def _receive(connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = connection.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data
