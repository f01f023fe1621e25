"""What ``vmbus ctl`` added, removed and changed at run time is there, or away, in the next host process too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmbus.devices.catalog import make_devices, stand_in
from vmbus.devices.device import DeviceError
from vmbus.devices.storage.controller import StorageController
from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.dvd_drive import DiscLocked
from vmbus.drivers.disk import Disk
from vmbus.host import Host
from vmbus.host.ctl_commands import Arguments, CtlCommands, Slow
from vmbus.host.inventory import NotThereAgain
from vmbus.host.servicing import Servicing
from vmbus.testing.servicing import FourChannels, Restarts
from vmbus.testing.waiting import until
from vmbus.wire.scsi.mmc import MediaEvent
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.primary import PreventAllow, StartStopUnit

KILL = pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])


def ctl(bus: Restarts, command: str, **arguments: Any) -> Any:
    """A command, in the host's thread, without a socket in between."""

    def run() -> Any:
        outcome = CtlCommands(bus.host).run(Arguments({"command": command, **arguments}))
        return outcome.finish(outcome.work()) if isinstance(outcome, Slow) else outcome

    return bus.in_host(run)


def labels(bus: Restarts) -> list[str]:
    return [slot.label for slot in bus.host.slots]


def units(bus: Restarts, number: int = 0) -> list[str]:
    return list(bus.in_host(bus.host.slots[number].device.inspect)["units"])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.img"
    path.write_bytes(b"other..." * 512 * 1024)
    return path


@KILL
def test_disks_and_devices_that_were_added_are_there_again(
    restarts: Callable[..., Restarts], other: Path, kill: bool
) -> None:
    bus = restarts()
    disk = bus.disk()
    assert ctl(bus, "add-scsi", disks=[f"{other},controller=5"]) == ["scsi5"]
    assert ctl(bus, "add-scsi", disks=["memory:2M"]) == []
    assert ctl(bus, "add-nic", nic="embedded,mac=02:00:00:00:00:07") == ["net2"]
    assert ctl(bus, "add-device", device="echo") == ["echo"]
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 5, timeout=60)
    added = bus.disk(2)
    ids = {slot.label: slot.device.instance_id for slot in bus.host.slots}
    for _ in range(2):
        bus.restart(kill=kill)
        assert added.read(8, 8) == b"other..." * 512 and disk.read(0, 1) == bytes(512)
        assert units(bus) == ["0:0:0", "0:0:1"]
        assert {slot.label: slot.device.instance_id for slot in bus.host.slots} == ids


@KILL
def test_what_was_removed_stays_away(restarts: Callable[..., Restarts], other: Path, kill: bool) -> None:
    bus = restarts()
    disk = bus.disk()
    ctl(bus, "add-scsi", disks=[f"{other},lun=4"])
    ctl(bus, "add-device", device="echo")
    ctl(bus, "remove", name="scsi1")
    for name in ("scsi/0:0:4", "echo"):
        ctl(bus, "remove", name=name)
    for _ in range(2):
        bus.restart(kill=kill)
        assert units(bus) == ["0:0:0"] and disk.read(0, 1) == bytes(512)
        assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
        assert labels(bus) == ["scsi", "net"]


@KILL
def test_a_disk_that_was_added_keeps_its_address_whatever_is_free_by_then(
    restarts: Callable[..., Restarts], kill: bool
) -> None:
    bus = restarts()
    for _ in range(2):
        ctl(bus, "add-scsi", disks=["memory:2M"])
    ctl(bus, "remove", name="scsi/0:0:1")
    for _ in range(2):
        bus.restart(kill=kill)
        assert units(bus) == ["0:0:0", "0:0:2"]


@KILL
def test_a_unit_of_the_command_line_that_was_exchanged_stays_exchanged(
    restarts: Callable[..., Restarts], other: Path, kill: bool
) -> None:
    bus = restarts()
    disk = bus.disk()
    ctl(bus, "remove", name="scsi/0:0:0")
    ctl(bus, "add-scsi", disks=[str(other)])
    bus.restart(kill=kill)
    assert disk.open().read(0, 1) == b"other..." * 64


def test_a_device_that_is_being_removed_when_the_host_is_killed_takes_leave_in_good_order(
    restarts: Callable[..., Restarts],
) -> None:
    bus = restarts()
    bus.card()
    slot = bus.host.slots[2]
    slot.device.retire = lambda done: None  # type: ignore[method-assign]
    ctl(bus, "remove", name="net")

    def offered() -> list[bool]:
        return [one["offered"] for one in json.loads(bus.state.read_text())["devices"]]

    assert until(lambda: offered() == [True, True, False])
    bus.restart(kill=True)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
    assert labels(bus) == ["scsi", "scsi1"]


def test_what_the_command_line_names_by_now_is_not_made_twice(restarts: Callable[..., Restarts], other: Path) -> None:
    bus = restarts()
    bus.disk()
    ctl(bus, "add-scsi", disks=[f"{other},controller=5"])
    before = bus.make
    bus.make = lambda: [*before(), *make_devices(disks=[f"{other},controller=5"])]
    bus.restart(kill=True)
    assert labels(bus) == ["scsi", "scsi1", "net", "scsi5"]
    assert until(lambda: json.loads(bus.state.read_text())["changes"] == {"added": [], "removed": []})


def test_a_host_that_cannot_make_an_added_disk_again_does_not_start(
    restarts: Callable[..., Restarts], other: Path
) -> None:
    bus = restarts()
    ctl(bus, "add-scsi", disks=[str(other)])
    bus.end(kill=True)
    content = other.read_bytes()
    other.unlink()
    with pytest.raises(NotThereAgain, match=r"other.img, added at run time, cannot be added again: .*other.img"):
        Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    other.write_bytes(content)
    bus.start()
    assert units(bus) == ["0:0:0", "0:0:1"]


def test_a_change_before_the_guest_is_back_is_not_forgotten(restarts: Callable[..., Restarts], other: Path) -> None:
    bus = restarts()
    disk = bus.disk()
    bus.end(kill=True)
    host = Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    host.inventory.remove(host.slots[2])
    host.close()
    bus.start()
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
    assert labels(bus) == ["scsi", "scsi1"] and disk.read(0, 1) == bytes(512)


def drive(bus: Restarts) -> ScsiDvd:
    device = bus.host.slots[3].device
    assert isinstance(device, StorageController)
    (unit,) = device.units.values()
    assert isinstance(unit, ScsiDvd)
    return unit


@pytest.fixture
def with_drive(restarts: Callable[..., Restarts], other: Path, tmp_path: Path) -> Restarts:
    """A bus with a DVD drive too, in which there is the disc that the command line names."""
    named = tmp_path / "named.iso"
    named.write_bytes(b"named..." * 512)
    bus = restarts()
    before = bus.make
    bus.make = lambda: [*before(), *make_devices(disks=[f"{named},dvd,controller=7"])]
    bus.restart(kill=False)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 4, timeout=60)
    return bus


@KILL
def test_a_disc_that_was_changed_is_in_the_drive_again(with_drive: Restarts, other: Path, kill: bool) -> None:
    bus = with_drive
    first = drive(bus)
    assert first.changed_to is None and first.blocks == 2
    ctl(bus, "insert", unit="scsi7", file=str(other))
    for _ in range(2):
        bus.restart(kill=kill)
        assert drive(bus).blocks == 2048 and drive(bus).changed_to == str(other)
    ctl(bus, "eject", unit="scsi7")
    bus.restart(kill=kill)
    assert not drive(bus).is_ready


@KILL
def test_a_tray_that_the_guest_has_locked_or_opened_is_so_in_the_next_process(with_drive: Restarts, kill: bool) -> None:
    bus = with_drive
    link = bus.guest.bus.wait(bus.guest.driver(FourChannels, 2).ready, 60)
    disk = Disk(link, bus.guest.pages, bus.guest.bus.wait)
    disk.run(PreventAllow(opcode=Opcode.PREVENT_ALLOW, prevent=1))
    bus.restart(kill=kill)
    with pytest.raises(DiscLocked):
        ctl(bus, "eject", unit="scsi7")
    disk.run(PreventAllow(opcode=Opcode.PREVENT_ALLOW))
    disk.run(StartStopUnit(opcode=Opcode.START_STOP_UNIT, load_eject=1))
    bus.restart(kill=kill)
    assert not drive(bus).is_ready and drive(bus).is_open and not drive(bus).locked_by
    assert list(drive(bus).media_events) == [MediaEvent.EJECT_REQUEST, MediaEvent.MEDIA_REMOVAL]


def test_a_disc_that_is_changed_before_the_guest_is_back_is_not_forgotten(with_drive: Restarts, other: Path) -> None:
    bus = with_drive
    bus.end(kill=True)
    host = Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    change = CtlCommands(host).run(Arguments({"command": "insert", "unit": "scsi7", "file": str(other)}))
    change.finish(change.work())
    host.close()
    bus.start()
    assert drive(bus).changed_to == str(other)


def test_a_host_whose_changed_disc_is_not_there_any_more_does_not_start(with_drive: Restarts, other: Path) -> None:
    bus = with_drive
    ctl(bus, "insert", unit="scsi7", file=str(other))
    bus.end(kill=True)
    other.rename(other.with_suffix(".away"))
    with pytest.raises(DeviceError, match=r"scsi7/0:0:0: its disc was changed at run time, and .*other.img"):
        Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    other.with_suffix(".away").rename(other)
    bus.start()
    assert drive(bus).is_ready
