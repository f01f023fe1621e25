"""A host comes back under a Linux guest with several controllers, monitor pages, and devices that changed meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.cli import main
from vmbus.linux.launch import ExitStatus
from vmbus.testing.linux import StartGuest
from vmbus.testing.restarts import LOAD, RELEASE, RestartableHost, errors_in_the_log

pytestmark = pytest.mark.linux

StartHost = Callable[..., RestartableHost]


@pytest.fixture
def second_disk(tmp_path: Path) -> Path:
    image = tmp_path / "second.img"
    image.write_bytes(bytes(32 << 20))
    return image


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[StartHost]:
    hosts: list[RestartableHost] = []

    def start(*options: str) -> RestartableHost:
        hosts.append(RestartableHost(tmp_path, "--scsi", str(tmp_path / "disk.img"), *options))
        hosts[-1].start()
        return hosts[-1]

    yield start
    for host in hosts:
        host.end(signal.SIGKILL)


def test_two_controllers_and_a_card_with_monitor_pages_go_on(
    linux_guest: StartGuest, start_host: StartHost, second_disk: Path
) -> None:
    host = start_host("--scsi", f"{second_disk},controller=1", "--nic", "embedded", "--monitor-latency", "100")
    script = [
        "wait-path /dev/sda 120",
        "wait-path /dev/sdb 120",  # which of the two it is, nobody knows, nor which is there first
        "ifup eth0 10.7.0.2/24",
        "say ready",
        LOAD.replace("/mnt/load", "/dev/sda"),
        LOAD.replace("/mnt/load", "/dev/sdb"),
        RELEASE,
        "wait",
        "ping 10.7.0.1 5 1400",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    guest.wait_for_line("ready", 120)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        time.sleep(0.6)
        host.end(number)
        host.start()
    time.sleep(0.5)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE
    assert errors_in_the_log(guest) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_card_that_was_taken_back_stays_away_until_it_is_offered(
    linux_guest: StartGuest, start_host: StartHost, number: signal.Signals
) -> None:
    host = start_host("--nic", "embedded")
    script = [
        "ifup eth0 10.7.0.2/24",
        "say card-is-up",
        "wait-gone /sys/class/net/eth0 120",
        "say card-is-gone",
        "@restarted sh read line",
        "wait-gone /sys/class/net/eth0 1",
        "say still-gone",
        "wait-path /sys/class/net/eth0 120",
        "ifup eth0 10.7.0.2/24",
        "ping 10.7.0.1 5 1400",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    guest.wait_for_line("card-is-up", 120)
    assert main(["ctl", host.address, "rescind", "net"]) == 0
    guest.wait_for_line("card-is-gone", 120)
    host.end(number)
    host.start()
    guest.write_line("")
    guest.wait_for_line("still-gone", 120)
    assert main(["ctl", host.address, "offer", "net"]) == 0
    assert guest.wait(240) == ExitStatus.DONE
    assert errors_in_the_log(guest) == []


def test_a_host_may_come_back_with_a_disk_more_and_with_one_less(
    linux_guest: StartGuest, start_host: StartHost, second_disk: Path
) -> None:
    host = start_host()
    before = host.options
    script = [
        "wait-path /dev/sda 120",
        "mount /dev/sda /mnt ext4",
        "say one-disk",
        "wait-path /dev/sdb 120",
        "disk-fill /dev/sdb 0 8M 3",
        "say two-disks",
        "wait-gone /dev/sdb 120",
        "write-file /mnt/after 4M 5",
        "umount /mnt",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    for line, options in (("one-disk", [*before, "--scsi", f"{second_disk},controller=1"]), ("two-disks", before)):
        guest.wait_for_line(line, 120)
        host.end(signal.SIGKILL)
        host.options = options
        host.start()
    assert guest.wait(240) == ExitStatus.DONE
