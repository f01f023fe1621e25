"""No two devices of a host have the same two ids: a guest could not tell them apart."""

from __future__ import annotations

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.device import DeviceError
from vmbus.devices.echo import Echo
from vmbus.devices.network import NetworkProvider
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.host import Host
from vmbus.testing.partitions import PartitionPair


def test_the_same_device_twice_is_refused_before_a_guest_comes() -> None:
    with pytest.raises(DeviceError, match=r"there is a device with its instance id, 6f1c7d1e-.*, already"):
        Host([Echo(), Echo()])


def test_two_cards_of_one_backend_are_two_cards() -> None:
    with PartitionPair(make_devices(nics=["embedded", "embedded"]), [NetworkDriver]) as pair:
        for number in range(2):
            driver: NetworkDriver = pair.guest.driver(NetworkDriver, number)
            pair.guest.bus.wait(driver.ready)
            assert NetworkCard(pair.guest.bus, driver, "10.7.0.2").ping("10.7.0.1") < 30


def test_which_card_of_a_backend_it_is_decides_its_address_in_every_run() -> None:
    runs = []
    for _ in range(2):
        devices = make_devices(nics=["none", "none,mac=02:00:00:00:00:01", "none"])
        runs.append([device.card.mac.hex(":") for device in devices if isinstance(device, NetworkProvider)])
    assert runs[0] == runs[1] and len(set(runs[0])) == 3 and runs[0][1] == "02:00:00:00:00:01"
