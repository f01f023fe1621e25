"""While events come in quick succession a Linux guest watches its event flags and is not interrupted; then it rests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.linux.launch import ExitStatus
from vmbus.synic import SynicVp
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nobody polls on a single processor"),
]

SECOND = 1_000_000
READS = ["wait-path /dev/sda 120", "throughput /dev/sda r 8 4K"]  # 2,048 requests, one after the other


@pytest.fixture
def spared(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the host set a flag and needed no interrupt."""
    found: list[float] = []
    is_polled = SynicVp._is_polled.fget

    def noted(vp: SynicVp) -> bool:
        polled = bool(is_polled(vp))
        if polled:
            found.append(time.monotonic())
        return polled

    monkeypatch.setattr(SynicVp, "_is_polled", property(noted))
    return found


def processor_seconds(group: int) -> float:
    """What all processes of a guest have used so far."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = process.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("microseconds", [SECOND, 0])
def test_requests_in_quick_succession_are_polled_for_unless_polling_is_off(
    running_host: Callable[..., RunningHost], linux_guest: StartGuest, spared: list[float], microseconds: int
) -> None:
    host = running_host(make_devices(disks=["memory:16M"]))
    again = "@again sh while ! [ -e /stop ]; do vmbus-guest-test throughput /dev/sda r 1 4K || exit 1; done"
    guest = linux_guest(
        host.address,
        [*READS, f"background {again}", "say reading", "@released sh read line; touch /stop", "wait"],
        append=[f"vmbus_poll={microseconds}"],
    )
    guest.wait_for_line("reading", 120)
    if microseconds:  # a busy machine makes the guest refrain for a while
        assert until(lambda: spared, 120)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE
    assert bool(spared) == (microseconds > 0)


def test_a_guest_polls_no_longer_when_nothing_comes(
    running_host: Callable[..., RunningHost], linux_guest: StartGuest
) -> None:
    host = running_host(make_devices(disks=["memory:16M"]))
    guest = linux_guest(host.address, [*READS, "say ready", "sleep 600"])
    guest.wait_for_line("ready", 120)

    def rests_for_a_second() -> bool:
        before = processor_seconds(guest.pid)
        time.sleep(1)
        return processor_seconds(guest.pid) - before < 0.3

    assert until(rests_for_a_second, 60)


@pytest.mark.parametrize("microseconds", [1, 100, 20_000])
def test_no_event_is_lost_however_long_the_guest_polls(
    running_host: Callable[..., RunningHost], linux_guest: StartGuest, microseconds: int
) -> None:
    host = running_host(make_devices(disks=["memory:16M", "memory:16M"]))
    script = [
        "wait-path /dev/sda 120",  # sd finds its disks side by side: the second may be there before the first
        "wait-path /dev/sdb 120",
        "background disk-load /dev/sda 1 1 1",
        "disk-load /dev/sdb 2 7 2",
        "wait",
        "throughput /dev/sda r 4 4K",
    ]
    guest = linux_guest(host.address, script, append=[f"vmbus_poll={microseconds}"])
    assert guest.wait(240) == ExitStatus.DONE
