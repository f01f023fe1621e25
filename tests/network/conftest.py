"""Cards on wires of their own; each is shut at the end, which checks that nobody kept a view of the guest's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from vmbus.devices.network import Backend, NetworkProvider
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.testing.network import Wire

CLONE_NEWNET = 0x40000000
MakeWire = Callable[..., Wire]
RunIp = Callable[..., object]


@pytest.fixture
def ip() -> Iterator[RunIp]:
    """Runs ``ip`` with its arguments, in a network namespace that this thread, and those that it starts, then have."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(CLONE_NEWNET) or not os.path.exists("/dev/net/tun"):
        os.close(before)
        pytest.skip("TAP interfaces need /dev/net/tun and CAP_NET_ADMIN")
    yield lambda *words: subprocess.run(["ip", *words], check=True, timeout=60)
    libc.setns(before, CLONE_NEWNET)
    os.close(before)


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    wires: list[Wire] = []

    def make(backend: Backend | None = None, *, ring_pages: int = 32, **options: object) -> Wire:
        mac = bytes.fromhex("00155d0a0b0c")
        provider = NetworkProvider(backend or EmbeddedNetwork(), mac=mac, **options)  # type: ignore[arg-type]
        wires.append(Wire(provider, ring_pages))
        return wires[-1]

    yield make
    for wire in wires:
        wire.shut()


@pytest.fixture
def wire(make_wire: MakeWire) -> Wire:
    return make_wire()
