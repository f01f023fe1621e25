"""Linux signals through monitor pages: its disk, its card and a user-space driver work without a hypercall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.devices.echo import ECHO_INTERFACE
from vmbus.host.monitor import PageMonitor
from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.tap import Direction, NullTap
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.testing.restarts import LOAD, RELEASE
from vmbus.testing.waiting import until

pytestmark = pytest.mark.linux

StartHost = Callable[..., RunningHost]
LATENCY = 1000
"""100 microseconds, in units of 100 ns."""


class SignalsToHost(NullTap):
    """Counts the guest's signals, whichever way they came."""

    count = 0

    def signal(self, direction: Direction, channel_id: int, connection_id: int, flag: int) -> None:
        self.count += direction == Direction.GUEST_TO_HOST


def monitor_of(host: RunningHost, guest: LinuxGuest) -> PageMonitor:
    """The page monitor of a guest that has booted; its counters stay when the guest is gone."""
    guest.wait_for_line("booted", 120)
    assert host.host.partition is not None
    return host.host.partition.monitor


def test_disk_and_card_work_through_monitor_pages(
    running_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(64 << 20))
    host = running_host(make_devices(disks=[str(disk)], nics=["embedded"], monitor_latency=LATENCY))
    monitored = "/sys/bus/vmbus/devices/*/client_monitor_latency"
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            "say booted",
            "ifup eth0 10.7.0.2/24",
            f"sh [ $(cat {monitored} | grep -c ^{LATENCY}$) = 2 ]",
            LOAD.replace("/mnt/load", "/dev/sda"),
            "ping 10.7.0.1 100 1400 5",
            "stream-echo tcp:10.7.0.1:7 16M 7",
            RELEASE,
            "wait",
        ],
    )
    monitor = monitor_of(host, guest)
    assert until(lambda: monitor.signals_to_host > 100 and monitor.signals_to_guest > 100, 240)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE


def test_a_driver_in_user_space_exchanges_packets_through_the_monitor_page(
    running_host: StartHost, linux_guest: StartGuest
) -> None:
    tap = SignalsToHost()
    host = running_host(make_devices(others=["echo"], monitor_latency=LATENCY), tap=tap)
    script = [f"adopt uio_hv_generic {ECHO_INTERFACE}", "wait-path /dev/uio0 120", "say booted"]
    guest = linux_guest(host.address, [*script, "uio-echo /dev/uio0 500 200 1"])
    monitor = monitor_of(host, guest)
    assert guest.wait(240) == ExitStatus.DONE
    # What is sent while the host is still taking the packet before falls into the same look, and is one signal.
    assert 0 < monitor.signals_to_host <= 500
    assert tap.count == monitor.signals_to_host, "some came by hypercall"
