"""A host is stopped, or killed, and started again under a Linux guest at work; the guest goes on with nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.testing.linux import StartGuest

pytestmark = pytest.mark.linux

SOAK = os.environ.get("VMBUS_SOAK") == "1"


class RestartableHost:
    """``vmbus host --state`` as a process that can be ended and started again."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "disk.img"
        self.address = f"unix:{directory / 'bus'}"
        self._log = (directory / "host.log").open("ab")
        self._command = [
            sys.executable,
            "-m",
            "vmbus",
            "host",
            self.address,
            "--scsi",
            str(self.image),
            "--nic",
            "embedded",
        ]
        self._command += ["--state", str(directory / "state"), "-v"]
        self.starts = 0
        with self.image.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(self.image)], check=True)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening")
        self.starts += 1

    def end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait(15)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RestartableHost]:
    host = RestartableHost(tmp_path)
    yield host
    host.end(signal.SIGTERM)


def is_clean(image: Path) -> bool:
    return subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True).returncode == 0


def errors_in_the_log(guest: LinuxGuest) -> list[str]:
    suspicious = ("I/O error", "storvsc", "Incorrect transaction", "hv_vmbus: ", "blk_update", "EXT4-fs error", "BUG")
    harmless = ("Vmbus version", "registering driver", "storvsc_host_t", "Unknown GUID")
    return [
        line
        for line in guest.lines
        if any(word in line for word in suspicious) and not any(word in line for word in harmless)
    ]


def run_under_load(
    linux_guest: StartGuest, host: RestartableHost, seconds: int, disturb: Callable[[LinuxGuest], None]
) -> None:
    """A mounted ext4, a verified random load on a file's worth of raw disk, and echoed TCP, while ``disturb`` runs."""
    guest = linux_guest(
        host.address,
        [
            "wait-path /dev/sda 20",
            "mount /dev/sda /mnt ext4",
            "write-file /mnt/before 4M 1",
            "write-file /mnt/load 32M 3",
            "sync",
            "say ready",
            f"@load disk-load /mnt/load {seconds} 4 1 32M",
            "@before read-file /mnt/before 4M 1",
            "write-file /mnt/after 8M 2",
            "umount /mnt",
        ],
        reconnect=60,
    )
    guest.wait_for_line("ready", 60)
    disturb(guest)
    assert guest.wait(seconds + 120) == ExitStatus.DONE
    assert errors_in_the_log(guest) == []
    assert is_clean(host.image)


def test_a_host_that_is_stopped_and_started_again_is_not_missed(linux_guest: StartGuest, host: RestartableHost) -> None:
    def restart_twice(guest: LinuxGuest) -> None:
        for _ in range(2):
            time.sleep(0.7)
            host.end(signal.SIGTERM)
            time.sleep(0.2)
            host.start()

    run_under_load(linux_guest, host, 8, restart_twice)
    assert host.starts == 3


@pytest.mark.soak
def test_a_host_that_is_killed_at_random_moments_loses_no_request(
    linux_guest: StartGuest, host: RestartableHost
) -> None:
    kills = 100 if SOAK else 4
    chance = random.Random(20260101)

    def kill_and_start(guest: LinuxGuest) -> None:
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 0.8))
            host.end(signal.SIGKILL)
            host.start()

    run_under_load(linux_guest, host, 260 if SOAK else 12, kill_and_start)
    assert host.starts == kills + 1


def test_a_guest_whose_state_is_gone_is_refused_in_one_line(
    linux_guest: StartGuest, host: RestartableHost, tmp_path: Path
) -> None:
    guest = linux_guest(host.address, ["wait-path /dev/sda 20", "say ready", "sleep 60"], reconnect=20)
    guest.wait_for_line("ready", 30)
    host.end(signal.SIGKILL)
    for file in tmp_path.glob("state*"):
        file.unlink()
    host.start()
    assert guest.wait(30) == ExitStatus.HOST_REFUSED
