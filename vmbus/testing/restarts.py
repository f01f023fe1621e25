"""A host in a process that a test ends and starts again, and what a Linux guest under load does meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vmbus.linux.launch import ExitStatus, LinuxGuest


class RestartableHost:
    """``vmbus host --state`` as a process that can be ended and started again."""

    def __init__(self, directory: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        """``options`` are its devices, by default a disk (``image``, an ext4) and a card.  ``prefix`` is a command that
        runs another, such as ``ip netns exec NAME``.
        """
        self.image = directory / "disk.img"
        self.address = f"unix:{directory / 'bus'}"
        self.log = directory / "host.log"
        self.options = list(options) or ["--scsi", str(self.image), "--nic", "embedded"]
        self._state = ["--state", str(directory / "state"), "-v"]
        self._prefix = list(prefix)
        self._process: subprocess.Popen[str] | None = None
        self.starts = 0
        with self.image.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(self.image)], check=True)

    def command(self, program: Sequence[str] = ("-m", "vmbus")) -> list[str]:
        """The command that starts it."""
        return [*self._prefix, sys.executable, *program, "host", self.address, *self.options, *self._state]

    def start(self, program: Sequence[str] = ("-m", "vmbus")) -> None:
        """Start it, and return when it listens.  ``program`` is what Python runs, up to the word ``host``."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(program), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening")
        self.starts += 1

    def wait(self, seconds: float = 120) -> int:
        """Wait for it to end; its exit status."""
        assert self._process is not None and self._process.stdout is not None
        status = self._process.wait(seconds)
        self._process.stdout.close()
        self._process = None
        return status

    def end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self.wait()


def is_clean(image: Path) -> bool:
    return subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True).returncode == 0


def errors_in_the_log(guest: LinuxGuest) -> list[str]:
    suspicious = (
        *("I/O error", "storvsc", "Incorrect transaction", "hv_vmbus: ", "hv_netvsc", "blk_update", "EXT4-fs error"),
        *("BUG", "WARNING"),
    )
    harmless = ("Vmbus version", "registering driver", "storvsc_host_t", "Unknown GUID")
    return [
        line
        for line in guest.lines
        if any(word in line for word in suspicious) and not any(word in line for word in harmless)
    ]


LOAD = "background sh while ! [ -e /stop ]; do vmbus-guest-test disk-load /mnt/load 3 4 1 16M || exit 1; done"
"""A verified random load on a file, until somebody types a line (``released``)."""
RELEASE = "@released sh read line; touch /stop"


def release(guest: LinuxGuest, host: RestartableHost) -> None:
    """End the load; the guest was served without an error, and its file system is sound."""
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE
    assert errors_in_the_log(guest) == []
    assert is_clean(host.image)
