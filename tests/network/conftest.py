"""Cards on wires of their own; each is shut at the end, which checks that nobody kept a view of the guest's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from vmbus.devices.network import Backend, NetworkProvider
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.testing.network import Wire

MakeWire = Callable[..., Wire]


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
