"""What ``vmbus ctl`` added, removed and changed at run time is there, or away, in the next host process too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmbus.devices.catalog import make_devices, stand_in
from vmbus.host import Host
from vmbus.host.ctl_commands import Arguments, CtlCommands, Slow
from vmbus.host.inventory import NotThereAgain
from vmbus.host.servicing import Servicing
from vmbus.testing.servicing import Restarts

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
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 5, timeout=10)
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
        assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=10)
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
    saved = json.loads(bus.state.read_text())["devices"]
    assert [one["offered"] for one in saved] == [True, True, False]
    bus.restart(kill=True)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=10)
    assert labels(bus) == ["scsi", "scsi1"]


def test_what_the_command_line_names_by_now_is_not_made_twice(restarts: Callable[..., Restarts], other: Path) -> None:
    bus = restarts()
    bus.disk()
    ctl(bus, "add-scsi", disks=[f"{other},controller=5"])
    before = bus.make
    bus.make = lambda: [*before(), *make_devices(disks=[f"{other},controller=5"])]
    bus.restart(kill=True)
    assert labels(bus) == ["scsi", "scsi1", "net", "scsi5"]
    assert json.loads(bus.state.read_text())["changes"] == {"added": [], "removed": []}


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
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=10)
    assert labels(bus) == ["scsi", "scsi1"] and disk.read(0, 1) == bytes(512)
