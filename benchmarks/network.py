"""Our network card under a real Linux guest, beside User-Mode Linux' own ``vector`` device: same kernel, same TAP.

Both cards end in a TAP interface of the host, in a network namespace of its own that is gone afterwards. ``vector``
(depth 128, GRO on) is a C driver inside the guest's process that writes to the TAP itself, in batches and with frames
of up to 64 KiB; ours goes through the ring to another process. Each round boots the guest once with each, in turn, on
a new interface: one keeps the offload settings of whoever used it last. TCP and datagrams are counted by whoever
receives them; a row is the median over the rounds.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import Row, quick, row
from benchmarks.storage import WithoutVmbus
from vmbus.errors import VmbusError
from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.initramfs import build_program
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION

ROUNDS = 5
SECONDS = 2
HERE, GUEST = "10.9.0.1", "10.9.0.2"
TCP_IN, TCP_OUT, UDP_IN, UDP_OUT = 5001, 5002, 5003, 5004
_CLONE_NEWNET = 0x40000000
_PAYLOAD = 22
"""Bytes of a datagram whose frame has 64 bytes with its checksum."""

MEASUREMENTS = {
    "tcp-out": ("TCP, guest to host", "Mbit/s", True),
    "tcp-in": ("TCP, host to guest", "Mbit/s", True),
    "udp-out": ("64-byte frames received, guest to host", "packets/s", True),
    "udp-in": ("64-byte frames received, host to guest", "packets/s", True),
    "ping": ("ping, one after the other, mean", "us", False),
    "ping-least": ("ping, one after the other, least", "us", False),
}


class NetworkFailed(VmbusError):
    """A guest or its card did not do what it was told to."""


def rows() -> Iterator[Row]:
    """All measurements."""
    kernel = build_kernel(DEFAULT_VERSION, Variant.BENCH)
    contenders = {"ours": _ours, "vector": _vector}
    series: dict[str, dict[str, list[float]]] = {name: {one: [] for one in MEASUREMENTS} for name in contenders}
    with _own_network():
        order = list(contenders)
        for _ in range(1 if quick() else ROUNDS):
            for name in order:
                for measurement, value in _run(contenders[name], kernel).items():
                    series[name][measurement].append(value)
            order.reverse()
    for measurement, (title, unit, higher) in MEASUREMENTS.items():
        mine, theirs = series["ours"][measurement], series["vector"][measurement]
        yield row(f"{title}, against vector", unit, mine, theirs, higher_is_better=higher)


@contextmanager
def _own_network() -> Iterator[None]:
    """A network namespace for this thread and the processes that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) or not os.path.exists("/dev/net/tun"):
            raise NetworkFailed("a network namespace and TAP need /dev/net/tun and CAP_NET_ADMIN")
        yield
    finally:
        libc.setns(before, _CLONE_NEWNET)
        os.close(before)


@contextmanager
def _tap() -> Iterator[str]:
    """A new interface ``tap0`` with the host's address."""
    _ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    try:
        _ip("addr", "add", f"{HERE}/24", "dev", "tap0")
        _ip("link", "set", "tap0", "up")
        yield "tap0"
    finally:
        _ip("link", "del", "tap0")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)


def _ours(stack: ExitStack, directory: Path, tap: str) -> tuple[str, GuestOptions]:
    address = f"unix:{directory / 'bus'}"
    command = [sys.executable, "-m", "vmbus", "host", address, "--nic", f"tap:{tap}"]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(host.wait)
    stack.callback(host.terminate)
    assert host.stdout is not None
    if not host.stdout.readline():
        raise NetworkFailed("the host does not start")
    return "eth0", GuestOptions(address, Path())


def _vector(stack: ExitStack, directory: Path, tap: str) -> tuple[str, GuestOptions]:
    card = f"vec0:transport=tap,ifname={tap},depth=128,gro=1"
    return "vec0", WithoutVmbus("unix:none", Path(), append=[card])


def _script(device: str, seconds: int) -> list[str]:
    pause = f"ping {HERE} 5 56 200"
    return [
        f"ifup {device} {GUEST}/24",
        pause,
        f"@ping ping {HERE} {200 if quick() else 1000} 56",
        f"@tcp-out stream-flood tcp:{HERE}:{TCP_OUT} {seconds}",
        f"@tcp-in stream-drain tcp:{HERE}:{TCP_IN}",
        pause,  # the counter of datagrams starts meanwhile
        f"@udp-out udp-send {HERE} {UDP_OUT} {seconds + 1} {_PAYLOAD}",
        f"@udp-in udp-receive {UDP_IN} {seconds}",
    ]


class _Host:
    """The host's part of each measurement, started by what the guest says on its console."""

    def __init__(self, stack: ExitStack, seconds: int) -> None:
        self.found: dict[str, float] = {}
        self._seconds = seconds
        self._program = str(build_program())
        self._threads: list[threading.Thread] = []
        for port, serve in ((TCP_OUT, self._count), (TCP_IN, self._flood)):
            listener = stack.enter_context(socket.create_server((HERE, port)))
            self._start(serve, listener)

    def _start(self, serve: Callable[[socket.socket], None], listener: socket.socket) -> None:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _count(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        began, received, piece = time.perf_counter(), 0, bytearray(1 << 20)
        with connection:
            while got := connection.recv_into(piece):
                received += got
        self.found["tcp-out"] = received * 8e-6 / (time.perf_counter() - began)

    def _flood(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        until, piece = time.perf_counter() + self._seconds, bytes(1 << 20)
        with connection:
            while time.perf_counter() < until:
                connection.sendall(piece)

    def hear(self, line: str) -> None:
        """A line of the guest's console."""
        if line.startswith("TEST tcp-in "):
            self._background("udp-out", "udp-receive", str(UDP_OUT), str(self._seconds))
        elif line.startswith(f"LISTENING udp:{UDP_IN}"):
            self._background("", "udp-send", GUEST, str(UDP_IN), str(self._seconds + 1), str(_PAYLOAD))
        if match := re.match(r"TEST ping ok .*min_us=(\d+) avg_us=(\d+)", line):
            self.found |= {"ping-least": float(match[1]), "ping": float(match[2])}
        elif match := re.match(r"TEST (tcp-in|udp-in) ok .*(?:mbit_per_s|pps)=([0-9.]+)", line):
            self.found[match[1]] = float(match[2])

    def _background(self, measurement: str, *words: str) -> None:
        process = subprocess.Popen([self._program, *words], stdout=subprocess.PIPE, text=True)

        def collect() -> None:
            said = process.communicate(timeout=60)[0]
            if measurement and (match := re.search(r"pps=([0-9.]+)", said)):
                self.found[measurement] = float(match[1])

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(30)


def _run(start: Callable[[ExitStack, Path, str], tuple[str, GuestOptions]], kernel: Path) -> dict[str, float]:
    seconds = 1 if quick() else SECONDS
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="vmbus-bench-") as name:
        tap = stack.enter_context(_tap())
        host = _Host(stack, seconds)
        device, options = start(stack, Path(name), tap)
        options.kernel, options.script = kernel, _script(device, seconds)
        with LinuxGuest(options, on_console_line=host.hear) as guest:
            guest.wait(120)
        host.wait()
        missing = MEASUREMENTS.keys() - host.found.keys()
        if missing:
            told = " / ".join(line for line in guest.lines if line.startswith("TEST"))
            raise NetworkFailed(f"{device} gave no {', '.join(sorted(missing))}: {told or guest.lines[-3:]}")
        return host.found
