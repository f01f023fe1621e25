"""The Python guest as a program: it uses the disk and the network card that a host offers, and checks all it gets back.

It does what the Linux guest's tests do: patterns are written, read back and compared, echo requests answered, a TCP
stream echoed and compared.  ``vmbus guest run --python unix:PATH`` and ``vmbus demo`` run it.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vmbus.drivers.disk import Disk
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.network.card import NetworkCard
from vmbus.drivers.storage import StorageDriver
from vmbus.errors import VmbusError
from vmbus.guest.partition import Guest
from vmbus.transport import connect, parse_address

GATEWAY = "10.7.0.1"
ADDRESS = "10.7.0.2"
ECHO_PORT = 7


class Mismatch(VmbusError):
    """What came back is not what was sent."""


def spread_drivers(channels: int) -> tuple[type[StorageDriver], type[NetworkDriver]]:
    """Drivers that ask for so many channels of each device, which are spread over the processors."""

    class Storage(StorageDriver):
        def __init__(self) -> None:
            super().__init__(subchannels=channels - 1)

    class Network(NetworkDriver):
        def __init__(self) -> None:
            super().__init__(queues=channels)

    return Storage, Network


@contextmanager
def booted_guest(address: str, *, vp_count: int = 1, **options: object) -> Iterator[Guest]:
    """A guest with a driver for every storage and network device of the host at ``address``.

    The devices are asked for a channel for each of the ``vp_count`` processors.
    """
    drivers = spread_drivers(vp_count)
    guest = Guest(connect(parse_address(address)), drivers=drivers, vp_count=vp_count, **options)  # type: ignore[arg-type]
    try:
        guest.boot()
        yield guest
    finally:
        guest.close()


class Workload:
    """Disk and network traffic of a guest, every answer checked; ``rounds`` counts what was done."""

    def __init__(self, guest: Guest, *, seed: int = 1) -> None:
        self._guest = guest
        self._random = random.Random(seed)
        self.rounds = 0
        self.disk: Disk | None = None
        self.card: NetworkCard | None = None
        if any(isinstance(driver, StorageDriver) for driver in guest.drivers):
            link = guest.bus.wait(guest.driver(StorageDriver).ready)
            self.disk = Disk(link, guest.pages, guest.bus.wait).open()
        if any(isinstance(driver, NetworkDriver) for driver in guest.drivers):
            driver: NetworkDriver = guest.driver(NetworkDriver)
            guest.bus.wait(driver.ready)
            self.card = NetworkCard(guest.bus, driver, ADDRESS)
        if self.disk is None and self.card is None:
            raise DriverError("the host offers neither a disk nor a network card")

    def run_round(self) -> None:
        """A write that is read back and compared, random reads, echo requests, and a TCP stream echoed and compared."""
        if self.disk is not None:
            self._use_disk(self.disk)
        if self.card is not None:
            self._use_network(self.card)
        self.rounds += 1

    def _use_disk(self, disk: Disk) -> None:
        blocks = self._random.choice((1, 8, 64, 256))
        blocks = min(blocks, disk.blocks)
        lba = self._random.randrange(0, disk.blocks - blocks + 1)
        data = self._random.randbytes(blocks * disk.block_size)
        disk.write(lba, data)
        if disk.read(lba, blocks) != data:
            raise Mismatch(f"blocks {lba} to {lba + blocks} were read back differently")
        for _ in range(4):
            disk.read(self._random.randrange(0, disk.blocks), 1)
        disk.flush()

    def _use_network(self, card: NetworkCard) -> None:
        for size in (56, 1400):
            card.ping(GATEWAY, size)
        data = self._random.randbytes(self._random.choice((1000, 20_000)))
        stream = card.connect(GATEWAY, ECHO_PORT)
        received = stream.exchange(data)
        if hashlib.sha256(received).digest() != hashlib.sha256(data).digest():
            raise Mismatch(f"a TCP stream of {len(data)} bytes came back as {len(received)} different ones")

    def run(self, seconds: float, *, pause: float = 0.0) -> None:
        """Rounds until time is up; ``pause`` seconds between them, in which the host may still speak."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._guest.gone is None:
            self.run_round()
            if pause:
                self._guest.loop.run(lambda: self._guest.gone is not None, timeout=pause)
        if self._guest.gone is not None:
            raise self._guest.gone


def run(address: str, *, seconds: float = float("inf"), pause: float = 0.0, processors: int = 1) -> int:
    """Boot, do rounds for ``seconds``, unload; the exit status."""
    with booted_guest(address, vp_count=processors) as guest:
        workload = Workload(guest)
        print(f"connected: VMBus {guest.control.version.number if guest.control.version else '?'}, ", end="")
        print(f"{len(guest.offers)} channels offered", flush=True)
        try:
            workload.run(seconds, pause=pause)
        finally:
            print(f"{workload.rounds} rounds of disk and network traffic, all of it compared", flush=True)
        guest.unload()
    return 0
