"""AF_VSOCK of a real Linux guest and Unix sockets of the host: both directions with checksums, crowds, ends, deaths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
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
SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")


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
                    connection.settimeout(240)
                    threading.Thread(target=self._act, args=(act, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    @staticmethod
    def _act(act: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            act(connection)

    def connect(self, port: int) -> socket.socket:
        """A connection to a port of the guest; raises ``ConnectionRefusedError`` if there is no answer."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(240)
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
        deadline = time.monotonic() + 120
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
        sender.join(240)
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
    assert guest.wait(240) == ExitStatus.DONE
    assert vsock.settles()


def test_the_host_connects_to_many_listeners_at_once_with_checksums(vsock: Vsock, linux_guest: StartGuest) -> None:
    count = 24
    guest = linux_guest(vsock.host.address, [f"stream-serve vsock:any:2000 {count + 1}"])
    guest.wait_for_line("LISTENING", 120)
    contents = [os.urandom(1000 + 40_000 * number) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda content: exchange(vsock.connect(2000), content), contents))
    assert answers == contents
    large = pattern(9, SIZE)
    assert exchange(vsock.connect(2000), large) == large
    assert guest.wait(240) == ExitStatus.DONE
    assert vsock.settles()


def test_connections_of_both_directions_at_once_keep_full_rings_going(vsock: Vsock, linux_guest: StartGuest) -> None:
    vsock.serve(1003, echo)
    script = ["background stream-serve vsock:any:2000 4"]
    script += [f"background stream-echo vsock:2:1003 4M {seed}" for seed in range(4)]
    guest = linux_guest(vsock.host.address, [*script, "wait"])
    guest.wait_for_line("LISTENING", 120)
    contents = [pattern(seed, 4 << 20) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda content: exchange(vsock.connect(2000), content), contents)) == contents
    assert guest.wait(240) == ExitStatus.DONE
    assert vsock.settles()


def sip(connection: socket.socket, chance: random.Random) -> Iterator[bytes]:
    """Read like somebody who has other things to do: pieces of any size, with pauses."""
    while piece := connection.recv(chance.choice([1, 100, 5_000, 60_000])):
        yield piece
        if chance.random() < 0.02:
            time.sleep(chance.random() * 0.01)


class FullRings:
    """Watches how often an end found its ring full and had to be woken when there was room again."""

    def __init__(self, vsock: Vsock) -> None:
        self._host = vsock.host.host
        self._is_over = False
        self._of_host: Counter[int] = Counter()
        self._of_guest: Counter[int] = Counter()
        vsock.host.in_host(self._look)

    def _look(self) -> None:
        if self._host.partition is not None:
            for channel_id, channel in self._host.partition.channels.items():
                self._of_host[channel_id] = max(self._of_host[channel_id], channel.outgoing.full)
                self._of_guest[channel_id] = max(self._of_guest[channel_id], channel.incoming.signals)
        if not self._is_over:
            self._host.loop.call_later(0.02, self._look)

    def counts(self) -> tuple[int, int]:
        """Times that the host waited for room, and times that it woke the guest for that reason."""
        self._is_over = True
        return self._of_host.total(), self._of_guest.total()


@pytest.mark.soak
def test_no_wake_up_is_lost_while_rings_are_full_in_both_directions(vsock: Vsock, linux_guest: StartGuest) -> None:
    """Rings of 20 KiB; whoever writes has megabytes more to say, and whoever reads is slow.

    We read slowly, and the guest echoes: it cannot read faster than we take back.
    """
    count, size = (6, 128 << 20) if SOAK else (3, 3 << 20)
    go = threading.Event()

    def slow_echo(connection: socket.socket) -> None:
        go.wait(240)
        for piece in sip(connection, random.Random(1003)):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.05)

    def talk(seed: int, connection: socket.socket) -> bool:
        """Send all to the guest; whether all came back."""
        sent, received = hashlib.sha256(), hashlib.sha256()
        with connection:
            sender = threading.Thread(target=send_in_pieces, args=(connection, size, seed, sent), daemon=True)
            sender.start()
            for piece in sip(connection, random.Random(-seed)):
                received.update(piece)
            sender.join(240)
        return received.digest() == sent.digest()

    vsock.serve(1003, slow_echo)
    script = [f"background stream-serve vsock:any:2000 {count}"]
    script += [f"background stream-echo vsock:2:1003 {size} {seed}" for seed in range(count)]
    guest = linux_guest(vsock.host.address, [*script, "wait"])
    guest.wait_for_line("LISTENING", 120)
    connections = [vsock.connect(2000) for _ in range(count)]
    full = FullRings(vsock)
    go.set()
    with ThreadPoolExecutor(count) as pool:
        assert all(pool.map(talk, range(count), connections))
    assert guest.wait(600 if SOAK else 240) == ExitStatus.DONE
    assert min(full.counts()) > 30 * count, f"the rings were not kept full: {full.counts()}"
    digests = [re.findall(r"sha256=(\w+)", line) for line in guest.lines if "TEST stream-echo ok" in line]
    assert len(digests) == count and all(sent == received for sent, received in digests)
    assert vsock.settles()


def send_in_pieces(connection: socket.socket, size: int, seed: int, digest: hashlib._Hash) -> None:
    """Send the pattern in pieces of any size, many of them larger than a ring, and end our direction."""
    chance, at = random.Random(seed), 0
    while at < size:
        piece = pattern(seed, min(size - at, chance.choice([1, 4_000, 30_000, 200_000])), at)
        connection.sendall(piece)
        digest.update(piece)
        at += len(piece)
    connection.shutdown(socket.SHUT_WR)


def test_refused_connections_fail_and_leave_nothing(vsock: Vsock, linux_guest: StartGuest) -> None:
    guest = linux_guest(vsock.host.address, ["say booted", "stream-send vsock:2:7777 1 1", "@refused sh read line"])
    guest.wait_for_line("booted", 120)
    with pytest.raises(ConnectionRefusedError):
        vsock.connect(4444)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.FAILED
    assert any("stream-send fail" in line for line in guest.lines)
    assert vsock.settles()


def test_killing_the_guest_ends_its_connections_and_the_host_serves_the_next(
    vsock: Vsock, linux_guest: StartGuest
) -> None:
    vsock.serve(1003, echo)
    script = ["background stream-echo vsock:2:1003 1G 1", "say busy", "stream-serve vsock:any:2000 10"]
    for _ in range(2):
        guest = linux_guest(vsock.host.address, script)
        guest.wait_for_line("LISTENING", 120)
        connection = vsock.connect(2000)
        connection.sendall(b"x" * 4096)
        time.sleep(0.2)
        assert guest.pid is not None
        os.kill(guest.pid, signal.SIGKILL)
        guest.wait(240)
        with connection, contextlib.suppress(ConnectionResetError):
            read_to_end(connection)
        assert vsock.settles()
    assert linux_guest(vsock.host.address, [f"stream-echo vsock:2:1003 {SIZE} 5"]).wait(240) == ExitStatus.DONE


def test_a_killed_host_ends_both_sides_in_the_middle_of_their_streams(tmp_path: Path, linux_guest: StartGuest) -> None:
    address, path = f"unix:{tmp_path / 'host'}", str(tmp_path / "v")
    command = [sys.executable, "-m", "vmbus", "host", address, "--vsock", path]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None and host.stdout.readline().startswith("listening")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as to_guest:
            listener.bind(f"{path}_1003")
            listener.listen()
            listener.settimeout(240)
            guest = linux_guest(address, ["background stream-echo vsock:2:1003 1G 1", "stream-serve vsock:any:2000 2"])
            guest.wait_for_line("LISTENING", 120)
            to_guest.settimeout(240)
            to_guest.connect(path)
            to_guest.sendall(b"CONNECT 2000\n")
            assert to_guest.recv(3) == b"OK "
            sender = threading.Thread(target=send_until_it_breaks, args=(to_guest,), daemon=True)
            sender.start()
            from_guest = listener.accept()[0]
            with from_guest:
                for connection in (from_guest, to_guest):
                    connection.settimeout(240)
                    assert connection.recv(400_000, socket.MSG_WAITALL)
                host.kill()
                for connection in (from_guest, to_guest):
                    with contextlib.suppress(ConnectionResetError):
                        read_to_end(connection)
            sender.join(240)
            assert not sender.is_alive()
        assert guest.wait(240) == ExitStatus.HOST_GONE
    finally:
        host.kill()
        host.wait()


def send_until_it_breaks(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(bytes(100_000))
