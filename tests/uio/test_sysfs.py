"""What sysfs says of the devices on this machine's bus, and how one changes hands."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from vmbus.transport.uio import (
    NoSuchDevice,
    NotBound,
    UioError,
    UioFile,
    UioMap,
    bind,
    find_device,
    list_devices,
    release,
)
from vmbus.transport.uio.binding import mounts_of
from vmbus.transport.uio.sysfs import read_subchannels
from vmbus.wire.guids import NETWORK, SCSI

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Machine

CARD = UUID("f8615163-0000-1000-2000-000000000001")
OTHER = UUID("f8615163-0000-1000-2000-000000000002")


def test_a_device_is_found_by_interface_instance_name_and_file(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD, channel_id=5, monitor_id=9, uio="uio3")
    for wanted in (NETWORK, CARD, "net", "uio3", f"{{{CARD}}}".upper()):
        assert find_device(wanted, machine.root) == card
    assert (card.channel_id, card.monitor_id, card.monitor_allocated, card.driver) == (5, 9, 1, "uio_hv_generic")


def test_one_of_several_has_to_be_named_by_its_instance(machine: Machine) -> None:
    machine.add(NETWORK, CARD)
    machine.add(NETWORK, OTHER, uio="uio1")
    with pytest.raises(NoSuchDevice, match=f"2 devices are net.*{CARD}, {OTHER}"):
        find_device("net", machine.root)
    assert find_device(OTHER, machine.root).uio == "uio1"
    with pytest.raises(NoSuchDevice, match="no device of this machine's VMBus is scsi"):
        find_device("scsi", machine.root)


def test_a_machine_without_the_bus_says_so(tmp_path: Path) -> None:
    with pytest.raises(UioError, match="there is no VMBus here"):
        list_devices(tmp_path)


def test_a_device_with_another_driver_says_how_to_get_it(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD, driver="hv_netvsc")
    with pytest.raises(NotBound, match=f"is with hv_netvsc, not with uio_hv_generic: `vmbus uio bind {CARD}`"):
        UioFile(card)


def test_binding_names_the_driver_for_this_device_alone(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD, driver="hv_netvsc")
    with pytest.raises(NotBound):  # nobody acts on what is written into these files
        bind(card)
    assert (card.directory / "driver_override").read_text() == "uio_hv_generic"
    assert (machine.bus / "drivers/hv_netvsc/unbind").read_text() == str(CARD)
    assert (machine.bus / "drivers/uio_hv_generic/bind").read_text() == str(CARD)
    assert not (machine.bus / "drivers/uio_hv_generic/new_id").exists()


def test_a_disk_that_is_mounted_stays_where_it_is(machine: Machine, tmp_path: Path) -> None:
    disk = machine.add(SCSI, OTHER, driver="hv_storvsc")
    partition = disk.directory / "host0/target0:0:0/0:0:0:0/block/sda/sda1"
    partition.mkdir(parents=True)
    (partition / "dev").write_text("8:1\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text("22 1 8:1 / /srv rw,relatime - ext4 /dev/sda1 rw\n23 1 8:16 / /mnt rw - ext4 /dev/sdb rw\n")
    assert mounts_of(disk, mounts) == ["/srv"]


def test_a_kernel_without_the_driver_says_so(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD, driver="hv_netvsc")
    (machine.bus / "drivers/uio_hv_generic").rmdir()
    with pytest.raises(UioError, match="modprobe uio_hv_generic"):
        bind(card)


def test_releasing_lets_the_kernel_choose_again(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD)
    release(card)
    assert (card.directory / "driver_override").read_text() == "\n"
    assert (machine.bus / "drivers/uio_hv_generic/unbind").read_text() == str(CARD)
    assert (machine.bus / "drivers_probe").read_text() == str(CARD)


def test_subchannels_are_those_that_can_be_mapped(machine: Machine) -> None:
    card = machine.add(NETWORK, CARD, channel_id=5)
    for channel_id, index, has_ring in ((5, 0, True), (8, 2, True), (7, 1, True), (9, 3, False)):
        channel = card.directory / "channels" / str(channel_id)
        channel.mkdir(exist_ok=True)
        (channel / "subchannel_id").write_text(str(index))
        if has_ring:
            (channel / "ring").write_bytes(b"")
    assert [(one.subchannel_index, one.channel_id) for one in read_subchannels(card)] == [(1, 7), (2, 8)]


def test_the_file_maps_by_number_and_knows_the_gpadls(machine: Machine, tmp_path: Path) -> None:
    maps = {0: ("txrx_rings", 0x4000), 3: ("recv:921104", 0x2000), 4: ("odd name", 0x2000)}
    card = machine.add(NETWORK, CARD, maps=maps)
    (tmp_path / "uio0").write_bytes(bytes(range(256)) * 16 * 8)
    file = UioFile(card, tmp_path)
    with file.map(UioMap.RECEIVE_BUFFER) as mapping:
        assert len(mapping.view) == 0x2000
    assert file.gpadl(UioMap.RECEIVE_BUFFER) == 921104
    with pytest.raises(UioError, match="'odd name', which names no GPADL"):
        file.gpadl(UioMap.SEND_BUFFER)
    with pytest.raises(UioError, match="has no map 2"):
        file.map(UioMap.MONITOR_PAGE)
    file.close()


def test_one_process_at_a_time_drives_a_channel(machine: Machine, tmp_path: Path) -> None:
    card = machine.add(NETWORK, CARD)
    (tmp_path / "uio0").write_bytes(bytes(4096))
    first = UioFile(card, tmp_path)
    with pytest.raises(UioError, match="driven by another process"):
        UioFile(card, tmp_path)
    first.close()
    UioFile(card, tmp_path).close()
