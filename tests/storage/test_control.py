"""Changing a controller's units at run time, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmbus.devices.device import DeviceError
from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.dvd import ScsiDvd


@pytest.fixture
def controller() -> StorageController:
    return StorageController()


def test_disks_are_added_resized_and_removed(controller: StorageController, tmp_path: Path) -> None:
    path = tmp_path / "d"
    assert controller.control(["add", f"file:{path},create=1M"]).endswith("is at 0:0:0")
    assert controller.control(["add", "memory:1M,lun=7"]).endswith("is at 0:0:7")
    controller.control(["resize", "0:0:0", "2M"])
    assert controller.units[UnitAddress(0, 0, 0)].blocks == 4096
    path.open("r+b").truncate(3 << 20)
    assert controller.control(["refresh", "0:0:0"]) == f"0:0:0 has {3 << 20} bytes"
    for address in ("0:0:0", "0:0:7"):
        controller.control(["remove", address])
    assert controller.units == {}


def test_a_disc_is_changed_and_a_locked_one_only_by_force(controller: StorageController, tmp_path: Path) -> None:
    (tmp_path / "a.iso").write_bytes(bytes(4096))
    controller.control(["add", ",dvd"])
    controller.control(["disc", "0:0:0", str(tmp_path / "a.iso")])
    drive = controller.units[UnitAddress(0, 0, 0)]
    assert isinstance(drive, ScsiDvd) and drive.blocks == 2
    drive.locked_by.add("guest")
    with pytest.raises(DeviceError, match="locked"):
        controller.control(["disc", "0:0:0", "none"])
    controller.control(["disc", "0:0:0", "none", "force"])
    assert not drive.is_ready


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "understands: add"),
        (["paint"], "understands: add"),
        (["remove"], "understands: add"),
        (["remove", "1:2"], "is no address"),
        (["remove", "0:0:9"], "no unit at 0:0:9"),
        (["resize", "0:0:0", "1X"], "is not a size"),
        (["disc", "0:0:0", "none"], "no DVD drive"),
        (["add", "memory:1M,lun=0"], "already"),
        (["add", "memory:1M,controller=1"], "makes no sense"),
        (["add", "/no/such/file"], "cannot open"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    controller: StorageController, words: list[str], complaint: str
) -> None:
    controller.control(["add", "memory:1M,lun=0"])
    with pytest.raises(DeviceError, match=complaint):
        controller.control(words)
