"""What test_uio.py runs in the guest: our drivers on this machine's own bus. It prints what it did, or the error.

Only the standard library and the package itself are there.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

from vmbus import native
from vmbus.drivers.disk import Disk
from vmbus.drivers.echo import ECHO_INTERFACE, EchoDriver, EchoLoad, exchange
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import StorageDriver
from vmbus.errors import VmbusError
from vmbus.guest.uio import UioBus
from vmbus.transport.uio import find_device, list_devices
from vmbus.transport.uio.binding import mounts_of
from vmbus.wire.guids import NETWORK, SCSI

PATIENCE = 120.0
"""Seconds that anything may take."""


def echo(packets: str, largest: str, window: str) -> None:
    """Exchange random packets and compare them; the ports of the rings, and how often each end was signalled."""
    with UioBus.of(find_device(ECHO_INTERFACE), bind_it=True) as bus:
        driver = EchoDriver()
        bus.attach(driver)
        channel = bus.wait(driver.ready, PATIENCE)
        load = EchoLoad(packets=int(packets), largest=int(largest), window=int(window))
        print(f"rings {channel.outgoing.memory.size} {'pure' if native.extension is None else 'native'}", flush=True)
        size = exchange(bus, driver, load, PATIENCE)
        counters = channel.counters
        print(f"exchanged {packets} {size} signals {counters.signals_out} {counters.signals_in}")
        print(f"wrapped {channel.outgoing.bytes // channel.outgoing.memory.size}")


def card(gateway: str, size: str, queues: str) -> None:
    """Bring the card up, ping, and compare a TCP stream that is echoed."""
    with UioBus.of(find_device(NETWORK), bind_it=True) as bus:
        driver = NetworkDriver(queues=int(queues))
        bus.attach(driver)
        bus.wait(driver.ready, PATIENCE)
        print(f"card {driver.mac.hex(':')} {driver.version.name} {len(driver.queues)}")
        network_card = NetworkCard(bus, driver, "10.7.0.2")
        for length in (0, 56, 1400):
            network_card.ping(gateway, length, PATIENCE)
        data = random.Random(1).randbytes(int(size))
        received = network_card.connect(gateway, 7, PATIENCE).exchange(data, PATIENCE)
        print(f"stream {len(received)} {'same' if received == data else 'changed'}")
        driver.shut_down()


def disk(blocks: str) -> None:
    """Write blocks of the disk, read them back, and compare; the requests name pages of the kernel's receive buffer."""
    found = next(device for device in list_devices() if device.interface_id == SCSI and not mounts_of(device))
    with UioBus.of(found, bind_it=True) as bus:
        driver = StorageDriver()
        bus.attach(driver)
        one = Disk(bus.wait(driver.ready, PATIENCE), bus.pages, partial(bus.wait, timeout=PATIENCE)).open()
        print(f"disk {one.blocks} {one.inquiry().product.decode().strip()}")
        chance = random.Random(2)
        for _ in range(int(blocks)):
            lba, count = chance.randrange(one.blocks - 256), chance.choice((1, 8, 256))
            data = chance.randbytes(count * one.block_size)
            one.write(lba, data)
            if one.read(lba, count) != data:
                raise DriverError(f"{count} blocks at {lba} were read back differently")
        one.flush()
        print(f"compared {blocks}")


def main() -> None:
    command, *arguments = sys.argv[1:]
    try:
        {"echo": echo, "card": card, "disk": disk}[command](*arguments)
    except VmbusError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/uio" in line]
    print(f"left {len(held)}")


main()
