"""How disks are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmbus.devices.catalog import named_device
from vmbus.devices.device import DeviceError
from vmbus.devices.storage.spec import BadDiskOption, DiskSpec, controllers_for, parse_disk_option
from vmbus.wire.vstor import IDE_INTERFACE_ID


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("disk.img", DiskSpec(backend="disk.img")),
        ("disk.img,readonly,lun=3", DiskSpec(backend="disk.img", read_only=True, lun=3)),
        ("memory:1G,sector=4096", DiskSpec(backend="memory:1G", sector=4096, physical=4096)),
        ("memory:1G,sector=512e", DiskSpec(backend="memory:1G", sector=512, physical=4096)),
        ("a.iso,dvd", DiskSpec(backend="a.iso", is_dvd=True, read_only=True)),
        (",dvd", DiskSpec(backend="", is_dvd=True, read_only=True)),
        ("d,controller=ide1,target=1", DiskSpec(backend="d", controller="ide1", target=1)),
        ("file:x,create=1M,lun=0", DiskSpec(backend="file:x,create=1M", lun=0)),
    ],
)
def test_a_disk_option_is_a_file_and_what_follows_it(text: str, spec: DiskSpec) -> None:
    assert parse_disk_option(text) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no file"),
        ("disk.img,lun=255", "lun=255 is not possible"),
        ("disk.img,sector=1024", "512, 512e or 4096"),
        ("disk.img,lun=1,lun=2", "says lun twice"),
        ("disk.img,raedonly", "'raedonly'.*is no option"),
        ("disk.img,controller=ide2", "ide0 or ide1"),
        ("disk.img,controller=ide0,lun=1", "target of 0 or 1"),
        ("a.iso,dvd,sector=512", "always 2048"),
    ],
)
def test_a_wrong_disk_option_is_told_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(BadDiskOption, match=complaint) as caught:
        parse_disk_option(text)
    assert "\n" not in str(caught.value)


def test_disks_are_put_on_their_controllers_at_the_first_free_lun() -> None:
    texts = ["memory:1M,lun=0", "memory:1M", "memory:1M,controller=1", "memory:1M,controller=ide0"]
    controllers = controllers_for(map(parse_disk_option, texts))
    assert [(one.name, [str(at) for at in one.units]) for one in controllers] == [
        ("scsi", ["0:0:0", "0:0:1"]),
        ("scsi1", ["0:0:0"]),
        ("ide0.0", ["0:0:0"]),
    ]
    assert controllers[2].interface_id == IDE_INTERFACE_ID
    for one in controllers:
        one.close()


@pytest.mark.parametrize(
    "backend", ["/no/such/file", "memory:0", "memory:12Q", "memory:100", "nonsense:1", "/dev/null"]
)
def test_a_backend_that_cannot_be_opened_is_told_in_one_line(backend: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_disk_option(backend).open()
    assert "\n" not in str(caught.value)


def test_two_disks_at_one_address_are_refused() -> None:
    with pytest.raises(DeviceError, match="already"):
        controllers_for(map(parse_disk_option, ["memory:1M,lun=1", "memory:1M,lun=1"]))


def test_a_sparse_file_is_made_on_request_and_never_truncated(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    device = named_device(f"storage:file:{path},create=1M")
    assert path.stat().st_size == 1 << 20
    device.close()
    parse_disk_option(f"file:{path},create=2M").open().close()
    assert path.stat().st_size == 1 << 20
