"""A guest of ours with two disks and a card, whose hosts follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.device import Device
from vmbus.devices.network import NetworkProvider
from vmbus.devices.network.backends.embedded import EmbeddedNetwork
from vmbus.testing.servicing import Restarts


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "disk"
    image.write_bytes(bytes(4 << 20))
    return image


@pytest.fixture
def restarts(tmp_path: Path, image: Path) -> Iterator[Callable[..., Restarts]]:
    made: list[Restarts] = []

    def make(*more: Device, monitor_latency: int | None = None) -> Restarts:
        def devices() -> list[Device]:
            disks = make_devices(disks=[str(image), "memory:1M,controller=1"], monitor_latency=monitor_latency)
            card = NetworkProvider(EmbeddedNetwork(), mac=bytes.fromhex("00155d0a0b0c"), queues=4)
            return [*disks, card, *more]

        made.append(Restarts(tmp_path / "state", devices))
        return made[-1]

    yield make
    for one in made:
        one.close()
