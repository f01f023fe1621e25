"""``vmbus uio``: what it lists, and the one line that says why a device cannot be driven."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from vmbus.cli import main
from vmbus.wire.guids import NETWORK, SCSI

CARD = UUID("f8615163-0000-1000-2000-000000000001")
DISK = UUID("f8615163-0000-1000-2000-000000000002")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A card with the kernel's driver and a monitor id, and a controller with uio_hv_generic."""
    bus = tmp_path / "bus/vmbus"
    for interface, instance, channel_id, driver in ((NETWORK, CARD, 5, "hv_netvsc"), (SCSI, DISK, 6, "uio_hv_generic")):
        device = bus / "devices" / str(instance)
        device.mkdir(parents=True)
        (bus / "drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(bus / "drivers" / driver)
        (device / "class_id").write_text(f"{{{interface}}}\n")
        (device / "id").write_text(f"{channel_id}\n")
    (bus / "devices" / str(CARD) / "monitor_id").write_text("3\n")
    (bus / "devices" / str(CARD) / "client_monitor_latency").write_text("1000\n")
    (bus / "devices" / str(DISK) / "uio/uio0").mkdir(parents=True)
    return tmp_path


def test_devices_are_listed_with_their_driver_and_how_they_are_signalled(
    sysfs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["uio", "--sysfs", str(sysfs), "list"]) == 0
    lines = [line.split(maxsplit=5) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        [str(CARD), "net", "5", "hv_netvsc", "-", "monitor 3, within 100 us"],
        [str(DISK), "scsi", "6", "uio_hv_generic", "uio0", "hypercall"],
    ]


def test_the_list_can_be_json(sysfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uio", "--sysfs", str(sysfs), "list", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["instance_id"] == str(CARD) and first["monitor_id"] == 3 and first["uio"] == ""


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["card"], 1, "is with hv_netvsc, not with uio_hv_generic"),
        (["listen", "bogus"], 2, "no device of this machine's VMBus is bogus"),
        (["listen", "uio0"], 1, "cannot open /dev/uio0"),
        (["disk", "--unit", "1"], 2, "PATH:TARGET:LUN"),
        (["card", "--size", "9000"], 2, "1472"),
    ],
)
def test_what_cannot_be_driven_is_one_line(
    sysfs: Path, arguments: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["uio", "--sysfs", str(sysfs), *arguments]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vmbus: ") and complaint in line


def test_a_machine_without_vmbus_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uio", "--sysfs", str(tmp_path), "list"]) == 1
    assert "there is no VMBus here" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--address", "--ping"])
def test_a_wrong_address_takes_no_card(option: str, sysfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uio", "--sysfs", str(sysfs), "card", "net", "--bind", option, "10.7.0"]) == 1
    assert capsys.readouterr().err == "vmbus: '10.7.0' is not an IPv4 address\n"
    assert not (sysfs / "bus/vmbus/devices" / str(CARD) / "driver_override").exists()
