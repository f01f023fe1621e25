"""A guest made of docs/partition-protocol.md alone, in plain Python, with nothing of our own code at its end."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.host.servicing import Servicing
from vmbus.testing.hosts import RunningHost

HELLO, SET_REGISTER, GET_REGISTER, POST_MESSAGE, SIGNAL_EVENT, NOTE = range(1, 7)
SIZE = 1 << 20
SIMP_PAGE, SIEFP_PAGE = 0x2000, 0x3000
GUEST_ID = bytes(range(16))
VMBUS_SINT = 2
CONTACT = struct.pack("<IIIIQQQ", 14, 0, 0x40001, 0, 0, 0, 0)
"""An InitiateContact of VMBus 4.1: bytes to this protocol, which the host answers with a message of its own."""


class Guest:
    """Memory, one processor, and a connection."""

    def __init__(self, path: str) -> None:
        self.memory_fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory_fd, SIZE)
        fcntl.fcntl(self.memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = mmap.mmap(self.memory_fd, SIZE)
        self.interrupt = os.eventfd(0, os.EFD_NONBLOCK)
        self.sequence = 0
        self._path = path
        self.connect()

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(self._path)

    def frame(self, operation: int, body: bytes, sequence: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        data = struct.pack("<IHHII", 16 + len(body), operation, 0, 0, sequence) + body
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([data], control)

    def reply(self) -> tuple[int, int, int, bytes]:
        head = self.socket.recv(16, socket.MSG_WAITALL)
        length, operation, status, _, sequence = struct.unpack("<IHHII", head)
        return operation, status, sequence, self.socket.recv(length - 16, socket.MSG_WAITALL) if length > 16 else b""

    def hello(self, features: int = 0) -> tuple[int, int]:
        """The status, and the features accepted."""
        body = struct.pack("<4sHHQQQII16s", b"VMBP", 1, 0, features, SIZE, 0, 1, self.sequence, GUEST_ID)
        self.frame(HELLO, body, descriptors=(self.memory_fd, self.interrupt))
        operation, status, sequence, body = self.reply()
        assert operation == 0x8000 + HELLO and sequence == 0
        major, minor, _, accepted, _ = struct.unpack("<HHIQQ", body)
        assert status or (major, minor) == (1, 0)
        return status, accepted

    def enable_synic(self) -> None:
        for number, value in (
            (0x40000083, SIMP_PAGE | 1), (0x40000082, SIEFP_PAGE | 1), (0x40000090 + VMBUS_SINT, 0xF3), (0x40000080, 1),
        ):  # fmt: skip
            self.frame(SET_REGISTER, struct.pack("<IIQ", number, 0, value))

    def request(self, operation: int, body: bytes, *, again: bool = False) -> bytes:
        self.sequence += not again
        self.frame(operation, body, self.sequence)
        answered, status, sequence, body = self.reply()
        assert (answered, status, sequence) == (0x8000 + operation, 0, self.sequence)
        return body

    def post(self, payload: bytes, connection: int = 1, *, again: bool = False) -> int:
        body = struct.pack("<IIII", connection, 1, len(payload), 0) + payload
        return int.from_bytes(self.request(POST_MESSAGE, body, again=again), "little")

    def message(self) -> bytes:
        """Wait for the interrupt, and take the message out of VMBus' slot."""
        slot = SIMP_PAGE + 256 * VMBUS_SINT
        while not int.from_bytes(self.memory[slot : slot + 4], "little"):
            assert select.select([self.interrupt], [], [], 10)[0], "the host did not raise the interrupt"
            os.eventfd_read(self.interrupt)
        size, pending = self.memory[slot + 4], self.memory[slot + 5] & 1
        payload = self.memory[slot + 16 : slot + 16 + size]
        self.memory[slot : slot + 4] = bytes(4)
        if pending:
            self.frame(SET_REGISTER, struct.pack("<IIQ", 0x40000084, 0, 0))
        return payload

    def close(self) -> None:
        self.socket.close()
        self.memory.close()
        for fd in (self.memory_fd, self.interrupt):
            os.close(fd)


@pytest.fixture
def host(running_host: Callable[..., RunningHost], tmp_path: Path) -> RunningHost:
    return running_host(make_devices(disks=["memory:1M"]), servicing=Servicing(tmp_path / "state"))


@pytest.fixture
def guest(host: RunningHost) -> Iterator[Guest]:
    found = Guest(host.address.removeprefix("unix:"))
    yield found
    found.close()


def test_a_guest_made_of_the_document_speaks_to_the_host(guest: Guest) -> None:
    assert guest.hello(features=1 << 40 | 0b11) == (0, 0b11)
    guest.enable_synic()
    assert struct.unpack("<Q", guest.request(GET_REGISTER, struct.pack("<II", 0x40000083, 0))) == (SIMP_PAGE | 1,)
    assert struct.unpack("<Q", guest.request(GET_REGISTER, struct.pack("<II", 0x4FFFFFFF, 0))) == (0,)
    assert guest.post(b"\0" * 8, connection=77) == 0x12
    assert guest.post(CONTACT) == 0
    assert struct.unpack_from("<IIB", guest.message()) == (15, 0, 1)
    assert guest.post(struct.pack("<II", 3, 0)) == 0
    assert [struct.unpack_from("<I", guest.message())[0] for _ in range(2)] == [1, 4]
    guest.frame(SIGNAL_EVENT, struct.pack("<IHH", 12345, 0, 0))
    guest.frame(NOTE, struct.pack("<I", 1) + b"it boots")
    guest.request(GET_REGISTER, struct.pack("<II", 0x40000020, 0))


def test_a_request_that_was_cut_off_is_carried_out_once(guest: Guest, host: RunningHost) -> None:
    guest.hello(features=1)
    guest.enable_synic()
    assert guest.post(CONTACT) == 0
    guest.message()
    assert guest.post(CONTACT, again=True) == 0
    guest.request(GET_REGISTER, struct.pack("<II", 0x40000020, 0))
    slot = SIMP_PAGE + 256 * VMBUS_SINT
    assert guest.memory[slot : slot + 4] == bytes(4)  # it was answered from what is remembered


def test_a_guest_that_says_it_comes_back_is_refused_where_nobody_knows_it(guest: Guest) -> None:
    guest.sequence = 9
    assert guest.hello(features=1)[0] == 5
    assert guest.socket.recv(1) == b""


def test_a_second_guest_is_told_that_the_host_is_busy(guest: Guest, host: RunningHost) -> None:
    assert guest.hello()[0] == 0
    second = Guest(host.address.removeprefix("unix:"))
    assert second.hello()[0] == 3
    second.close()


@pytest.mark.parametrize(
    "data", [b"\x0f\0\0\0" + bytes(12), b"\x01\x10\0\0" + bytes(12), b"\x10\0\0\0\x63" + bytes(11)]
)
def test_a_frame_of_impossible_length_or_operation_ends_the_connection(guest: Guest, data: bytes) -> None:
    guest.hello()
    guest.socket.sendall(data)
    assert guest.socket.recv(1) == b""
