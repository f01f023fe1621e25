"""The real Linux drivers use our devices: a disk with ext4, a network card with TCP, and either may go."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

pytestmark = pytest.mark.linux

StartHost = Callable[..., RunningHost]
SIZES = (1, 511, 4096, 65_537, 1 << 20, 64 << 20)


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """An image of 192 MiB with an ext4 that holds ``from-host``, a megabyte of random bytes."""
    image, root = tmp_path / "disk.img", tmp_path / "root"
    root.mkdir()
    (root / "from-host").write_bytes(os.urandom(1 << 20))
    with image.open("wb") as file:
        file.truncate(192 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image)], check=True)
    return image


def files_in(image: Path, names: list[str], directory: Path) -> dict[str, bytes]:
    """The contents of files in an ext4 image, read without mounting it."""
    found = {}
    for name in names:
        copy = directory / f"copy-{name}"
        subprocess.run(["debugfs", "-R", f"dump /{name} {copy}", str(image)], check=True, capture_output=True)
        found[name] = copy.read_bytes()
    return found


def results(guest: LinuxGuest) -> dict[str, dict[str, str]]:
    """What each named command of the script printed."""
    found = {}
    for line in guest.lines:
        if line.startswith("TEST "):
            _, name, outcome, *values = line.split()
            found[name] = {"outcome": outcome, **dict(value.partition("=")[::2] for value in values)}
    return found


def test_linux_reads_what_the_host_wrote_and_the_host_reads_what_linux_wrote(
    running_host: StartHost, linux_guest: StartGuest, ext4: Path, tmp_path: Path
) -> None:
    expected = hashlib.sha256((tmp_path / "root" / "from-host").read_bytes()).hexdigest()
    host = running_host(make_devices(disks=[str(ext4)]))
    script = ["wait-path /dev/sda 120", "mount /dev/sda /mnt ext4", f"sha256 /mnt/from-host {expected}"]
    script += [f"@w{size} write-file /mnt/f{size} {size} {size}" for size in SIZES]
    guest = linux_guest(host.address, [*script, "sync", "umount /mnt"])
    assert guest.wait(240) == ExitStatus.DONE
    assert any("Vmbus version:5.3" in line for line in guest.lines)

    written = results(guest)
    for name, content in files_in(ext4, [f"f{size}" for size in SIZES], tmp_path).items():
        assert len(content) == int(name[1:])
        assert hashlib.sha256(content).hexdigest() == written[f"w{name[1:]}"]["sha256"]
    checked = subprocess.run(["e2fsck", "-fn", str(ext4)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_card_carries_pings_and_tcp_both_ways(running_host: StartHost, linux_guest: StartGuest) -> None:
    host = running_host(make_devices(nics=["embedded"]))
    guest = linux_guest(
        host.address,
        [
            "wait-path /sys/class/net/eth0 120",
            "ifup eth0 10.7.0.2/24",
            "@small ping 10.7.0.1 20 56 5",
            "@large ping 10.7.0.1 20 1400 5",
            "@tcp stream-echo tcp:10.7.0.1:7 64M 7",
        ],
    )
    assert guest.wait(240) == ExitStatus.DONE
    answers = results(guest)
    assert answers["small"]["received"] == answers["large"]["received"] == "20"
    assert answers["tcp"]["sent_sha256"] == answers["tcp"]["received_sha256"]


def test_a_card_that_is_rescinded_in_use_goes_and_comes_back(running_host: StartHost, linux_guest: StartGuest) -> None:
    host = running_host(make_devices(nics=["embedded"]))
    slot = host.host.slots[0]
    guest = linux_guest(
        host.address,
        [
            "wait-path /sys/class/net/eth0 120",
            "ifup eth0 10.7.0.2/24",
            "background stream-echo tcp:10.7.0.1:7 256M 1",
            "say in-use",
            "wait-gone /sys/class/net/eth0 120",
            "say gone",
            "wait-path /sys/class/net/eth0 120",
            "ifup eth0 10.7.0.2/24",
            "@again ping 10.7.0.1 10 56 5",
            "exit 0",
        ],
    )
    guest.wait_for_line("in-use", 120)
    time.sleep(0.3)
    host.in_host(slot.rescind)
    guest.wait_for_line("gone", 120)
    host.in_host(slot.reoffer)
    assert guest.wait(240) == ExitStatus.DONE
    assert results(guest)["again"]["received"] == "10"


def test_killing_a_guest_in_the_middle_leaves_the_host_serving_the_next_with_nothing_leaked(
    running_host: StartHost, linux_guest: StartGuest, ext4: Path
) -> None:
    host = running_host(make_devices(disks=[str(ext4)], nics=["embedded"]))
    script = ["wait-path /dev/sda 120", "ifup eth0 10.7.0.2/24", "say busy"]
    script += ["background stream-echo tcp:10.7.0.1:7 512M 1", "disk-load /dev/sda 600 4 1 16M 64M"]

    def held() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text().count("\n")
        return len(os.listdir("/proc/self/fd")), maps, len(host.host.slots[0].channels)

    first: list[int] = []
    for delay in (0.05, 0.2, 0.4, 0.1):
        guest = linux_guest(host.address, script)
        guest.wait_for_line("busy", 120)
        time.sleep(delay)
        assert guest.pid is not None
        os.kill(guest.pid, signal.SIGKILL)
        guest.wait(240)
        assert until(lambda: not host.has_guest, 120)
        if not first:
            assert until(lambda: host.in_host(held)[2] == 0, 120)
            first.extend(host.in_host(held))

    def nothing_leaked() -> bool:
        files, maps, channels = host.in_host(held)
        return files <= first[0] and maps <= first[1] + 4 and channels == 0

    assert until(nothing_leaked, 120), (first, host.in_host(held))
    assert (
        linux_guest(host.address, ["wait-path /dev/sda 120", "ifup eth0 10.7.0.2/24", "ping 10.7.0.1 3 56 5"]).wait(240)
        == ExitStatus.DONE
    )


@pytest.mark.parametrize("activity", ["sleep 600", "disk-load /dev/sda 600 2 1 4M"])
def test_a_guest_whose_host_dies_stops_with_a_clear_message(
    tmp_path: Path, linux_guest: StartGuest, ext4: Path, activity: str
) -> None:
    import sys

    address = f"unix:{tmp_path / 'host'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(ext4)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening")
        guest = linux_guest(address, ["wait-path /dev/sda 120", "say ready", activity])
        guest.wait_for_line("ready", 120)
        time.sleep(0.2)
        process.kill()
        assert guest.wait(240) == ExitStatus.HOST_GONE
        assert any("host closed the connection" in line for line in guest.lines)
    finally:
        process.kill()
        process.wait()
