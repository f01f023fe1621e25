"""AF_VSOCK of a real Linux guest and Unix sockets of the host: both directions with checksums, crowds, ends, deaths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmbus.devices.hvsocket import VsockRelay
from vmbus.inet.pattern import pattern
from vmbus.linux.launch import ExitStatus
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest

pytestmark = pytest.mark.linux

SIZE = 8 << 20


class Vsock:
    """A running host with a relay, and services at ``PATH_PORT``."""

    def __init__(self, host: RunningHost, path: Path) -> None:
        self.host = host
        self.path = path
        self.relay = host.in_host(lambda: VsockRelay(host.host, path))
        host.host.sockets = self.relay
        self._listeners: list[socket.socket] = []

    def serve(self, port: int, act: Callable[[socket.socket], None]) -> None:
        """Do ``act`` with every connection that the guest makes to ``port``, each in a thread."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.path}_{port}")
        listener.listen(64)
        self._listeners.append(listener)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(60)
                    threading.Thread(target=self._act, args=(act, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    @staticmethod
    def _act(act: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            act(connection)

    def connect(self, port: int) -> socket.socket:
        """A connection to a port of the guest; raises ``ConnectionRefusedError`` if there is no answer."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(self.path))
        connection.sendall(f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = connection.recv(1)
            if not byte:
                connection.close()
                raise ConnectionRefusedError(port)
            answer += byte
        assert answer.startswith(b"OK ")
        return connection

    def settles(self) -> bool:
        """Whether every connection comes to its end."""
        deadline = time.monotonic() + 15
        while self.relay.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.relay.connections and not self.host.host.slots

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.host.in_host(self.relay.close)


@pytest.fixture
def vsock(running_host: Callable[..., RunningHost], tmp_path: Path) -> Iterator[Vsock]:
    served = Vsock(running_host([]), tmp_path / "v")
    yield served
    served.close()


def read_to_end(connection: socket.socket) -> bytes:
    data = bytearray()
    while received := connection.recv(1 << 16):
        data += received
    return bytes(data)


def answer_with_digest(connection: socket.socket) -> None:
    connection.sendall(hashlib.sha256(read_to_end(connection)).hexdigest().encode())


def send_and_compare_digest(connection: socket.socket) -> None:
    content = pattern(3, SIZE)
    connection.sendall(content)
    connection.shutdown(socket.SHUT_WR)
    assert read_to_end(connection) == hashlib.sha256(content).hexdigest().encode()


def echo(connection: socket.socket) -> None:
    while received := connection.recv(1 << 16):
        connection.sendall(received)
    connection.shutdown(socket.SHUT_WR)
    time.sleep(0.05)


def exchange(connection: socket.socket, content: bytes) -> bytes:
    """Send all of it, end our direction, and read until the guest ends its own."""

    def send() -> None:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)

    with connection:
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        received = read_to_end(connection)
        sender.join(30)
    return received


def test_the_guest_connects_sends_and_receives_with_checksums_and_half_close(
    vsock: Vsock, linux_guest: StartGuest
) -> None:
    vsock.serve(1001, answer_with_digest)
    vsock.serve(1002, send_and_compare_digest)
    vsock.serve(1003, echo)
    guest = linux_guest(
        vsock.host.address,
        [
            f"stream-send vsock:2:1001 {SIZE} 1",
            f"stream-receive vsock:2:1002 {SIZE} 3",
            f"stream-echo vsock:2:1003 {SIZE} 5",
            "stream-send vsock:2:1001 1 1",
        ],
    )
    assert guest.wait(90) == ExitStatus.DONE
    assert vsock.settles()


def test_the_host_connects_to_many_listeners_at_once_with_checksums(vsock: Vsock, linux_guest: StartGuest) -> None:
    count = 24
    guest = linux_guest(vsock.host.address, [f"stream-serve vsock:any:2000 {count + 1}"])
    guest.wait_for_line("LISTENING", 20)
    contents = [os.urandom(1000 + 40_000 * number) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda content: exchange(vsock.connect(2000), content), contents))
    assert answers == contents
    large = pattern(9, SIZE)
    assert exchange(vsock.connect(2000), large) == large
    assert guest.wait(30) == ExitStatus.DONE
    assert vsock.settles()


def test_connections_of_both_directions_at_once_keep_full_rings_going(vsock: Vsock, linux_guest: StartGuest) -> None:
    vsock.serve(1003, echo)
    script = ["background stream-serve vsock:any:2000 4"]
    script += [f"background stream-echo vsock:2:1003 4M {seed}" for seed in range(4)]
    guest = linux_guest(vsock.host.address, [*script, "wait"])
    guest.wait_for_line("LISTENING", 20)
    contents = [pattern(seed, 4 << 20) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda content: exchange(vsock.connect(2000), content), contents)) == contents
    assert guest.wait(60) == ExitStatus.DONE
    assert vsock.settles()


def test_refused_connections_fail_and_leave_nothing(vsock: Vsock, linux_guest: StartGuest) -> None:
    guest = linux_guest(vsock.host.address, ["say booted", "stream-send vsock:2:7777 1 1", "sleep 3"])
    guest.wait_for_line("booted", 20)
    with pytest.raises(ConnectionRefusedError):
        vsock.connect(4444)
    assert guest.wait(30) == ExitStatus.FAILED
    assert any("stream-send fail" in line for line in guest.lines)
    assert vsock.settles()


def test_killing_the_guest_ends_its_connections_and_the_host_serves_the_next(
    vsock: Vsock, linux_guest: StartGuest
) -> None:
    vsock.serve(1003, echo)
    script = ["background stream-echo vsock:2:1003 1G 1", "say busy", "stream-serve vsock:any:2000 10"]
    for _ in range(2):
        guest = linux_guest(vsock.host.address, script)
        guest.wait_for_line("LISTENING", 20)
        connection = vsock.connect(2000)
        connection.sendall(b"x" * 4096)
        time.sleep(0.2)
        assert guest.pid is not None
        os.kill(guest.pid, signal.SIGKILL)
        guest.wait(10)
        with connection, contextlib.suppress(ConnectionResetError):
            read_to_end(connection)
        assert vsock.settles()
    assert linux_guest(vsock.host.address, [f"stream-echo vsock:2:1003 {SIZE} 5"]).wait(30) == ExitStatus.DONE


def test_a_killed_host_ends_both_sides(tmp_path: Path, linux_guest: StartGuest) -> None:
    address = f"unix:{tmp_path / 'host'}"
    command = [sys.executable, "-m", "vmbus", "host", address, "--vsock", str(tmp_path / "v")]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None and host.stdout.readline().startswith("listening")
        guest = linux_guest(address, ["stream-serve vsock:any:2000 2"])
        guest.wait_for_line("LISTENING", 20)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(tmp_path / "v"))
            connection.sendall(b"CONNECT 2000\nhello")
            assert connection.recv(3) == b"OK "
            host.kill()
            with contextlib.suppress(ConnectionResetError):
                read_to_end(connection)
        assert guest.wait(20) == ExitStatus.HOST_GONE
    finally:
        host.kill()
        host.wait()
