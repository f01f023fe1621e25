"""Linux connects with every version of VMBus that it knows, and its disk and card work with each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.linux.launch import ExitStatus
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.wire.control_values import Version

pytestmark = pytest.mark.linux


@pytest.mark.parametrize(
    "version", [version for version in Version if Version.V2_4 <= version <= Version.V5_3], ids=str
)
def test_disk_and_card_work_with_the_version_that_the_host_gives(
    running_host: Callable[..., RunningHost], linux_guest: StartGuest, version: Version
) -> None:
    host = running_host(make_devices(disks=["memory:32M"], nics=["embedded"]), max_version=version)
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 120",
            "disk-load /dev/sda 1 2 1 4M",
            "ifup eth0 10.7.0.2/24",
            "ping 10.7.0.1 5 1400 5",
            "stream-echo tcp:10.7.0.1:7 256K 3",
        ],
    )
    assert guest.wait(240) == ExitStatus.DONE
    assert any(f"Vmbus version:{version.number}" in line for line in guest.lines)
