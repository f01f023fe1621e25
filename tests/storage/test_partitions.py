"""A disk over the whole stack: a host, a Python guest with several processors, subchannels, disks that come and go."""

from __future__ import annotations

import random
from typing import cast

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.spec import parse_disk_option
from vmbus.drivers.disk import Disk
from vmbus.drivers.errors import DriverError
from vmbus.drivers.storage import FIRST_UNIT, Address, GuestBuffer, StorageDriver
from vmbus.testing.partitions import PartitionPair
from vmbus.wire.control_values import ALL_VERSIONS, Version
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection, SrbStatus


class ThreeSubchannels(StorageDriver):
    """A driver that wants four channels in all."""

    def __init__(self) -> None:
        super().__init__(subchannels=3)


def disk_of(
    pair: PartitionPair, kind: type[StorageDriver] = StorageDriver, *, number: int = 0, address: Address = FIRST_UNIT
) -> Disk:
    driver: StorageDriver = pair.guest.driver(kind, number)
    link = pair.guest.bus.wait(driver.ready, 60)
    return Disk(link, pair.guest.pages, pair.guest.bus.wait, address).open()


@pytest.mark.parametrize("version", ALL_VERSIONS[2:], ids=lambda version: version.name)
def test_a_disk_works_over_every_version_of_vmbus(version: Version) -> None:
    with PartitionPair(make_devices(disks=["memory:4M"]), [StorageDriver], versions=[version]) as pair:
        disk = disk_of(pair)
        disk.write(3, b"v" * 4096)
        assert disk.read(3, 8) == b"v" * 4096


def test_controllers_and_ide_disks_are_driven_beside_each_other() -> None:
    disks = ["memory:1M", "memory:2M,controller=1", "memory:3M,controller=ide0,target=1"]
    with PartitionPair(make_devices(disks=disks), [StorageDriver]) as pair:
        found = sorted(
            disk_of(pair, number=number, address=Address(0, target, 0)).blocks
            for number, target in ((0, 0), (1, 0), (2, 1))
        )
        assert found == [2048, 4096, 6144]


def test_a_verified_load_over_four_channels_loses_nothing() -> None:
    chance = random.Random(3)
    devices = make_devices(disks=["memory:8M"])
    with PartitionPair(devices, [ThreeSubchannels], vp_count=4) as pair:
        disk = disk_of(pair, ThreeSubchannels)
        link = disk.link
        assert pair.guest.loop.run(lambda: len(link.channels) == 4, timeout=60)
        written: dict[int, bytes] = {}
        for _ in range(20):
            batch = []
            for lba in chance.sample(range(0, 16384, 8), 100):
                buffer = GuestBuffer(pair.guest.pages, 4096)
                written[lba] = chance.randbytes(4096)
                buffer.write(written[lba])
                command = Transfer10(opcode=Opcode.WRITE_10, lba=lba, length=8)
                batch.append((link.execute(Address(), command, buffer, DataDirection.OUT), buffer))
            for promise, buffer in batch:
                assert pair.guest.bus.wait(promise).is_good
                buffer.release()
        for lba in chance.sample(sorted(written), 300):
            assert disk.read(lba, 8) == written[lba]
        used = pair.in_host(lambda: devices[0].inspect()["channels"])
        assert {index: one["requests"] > 100 for index, one in used.items()} == dict.fromkeys("0123", True)


def test_a_controller_taken_away_fails_what_is_under_way_and_can_come_back() -> None:
    devices = make_devices(disks=["faulty:memory:4M,on=read,do=stuck,from=1M,to=2M"])
    with PartitionPair(devices, [StorageDriver]) as pair:
        disk = disk_of(pair)
        buffer = GuestBuffer(pair.guest.pages, 512)
        stuck = disk.link.execute(
            Address(), Transfer10(opcode=Opcode.READ_10, lba=2048, length=1), buffer, DataDirection.IN
        )
        bus = devices[0].bus
        assert bus is not None
        pair.in_host(bus.rescind)
        assert pair.guest.bus.wait(stuck).srb_status == SrbStatus.INVALID_LUN
        assert pair.guest.loop.run(lambda: not pair.guest.drivers, timeout=60)
        with pytest.raises(DriverError):
            disk.read(0, 1)
        pair.in_host(bus.reoffer)
        assert pair.guest.loop.run(lambda: bool(pair.guest.drivers), timeout=60)
        assert disk_of(pair).read(0, 1) == bytes(512)


def test_the_next_guest_finds_what_the_last_one_wrote() -> None:
    with PartitionPair(make_devices(disks=["memory:4M"]), [StorageDriver]) as pair:
        disk_of(pair).write(1, b"kept".ljust(512))
        pair.guest.close()
        pair.new_guest().boot()
        assert disk_of(pair).read(1, 1) == b"kept".ljust(512)


def test_units_are_added_and_removed_while_the_guest_runs() -> None:
    devices = make_devices(disks=["memory:4M"])
    controller = cast("StorageController", devices[0])
    with PartitionPair(devices, [StorageDriver]) as pair:
        link = disk_of(pair).link
        looked: list[int] = []
        link.on_rescan = lambda: looked.append(1)
        unit = parse_disk_option("memory:1M").open()
        pair.in_host(lambda: controller.add(UnitAddress(0, 0, 3), unit))
        assert pair.guest.loop.run(lambda: len(looked) == 1, timeout=60)
        assert disk_of(pair, address=Address(0, 0, 3)).blocks == 2048
        pair.in_host(lambda: controller.remove(UnitAddress(0, 0, 3)).close())
        assert pair.guest.loop.run(lambda: len(looked) == 2, timeout=60)
        assert disk_of(pair).luns() == [0]
