"""``vmbus guest run`` without a script: a shell, for what is piped in or on a terminal."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.linux.launch import GuestOptions, LinuxGuest

VMBUS = [sys.executable, "-m", "vmbus"]
pytestmark = pytest.mark.linux


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    address = f"unix:{tmp_path / 'host'}"
    with subprocess.Popen([*VMBUS, "host", address, "--nic", "embedded"], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline().startswith(b"listening")
        yield address
        host.terminate()


@pytest.mark.parametrize(
    ("commands", "printed", "status"),
    [
        ("echo $((6 * 7))\nexit 3\n", "42", 3),
        ("ifconfig eth0 10.7.0.2 up && ping -c1 10.7.0.1", "1 packets received", 0),
        ("", "Power down", 0),
    ],
)
def test_what_is_piped_in_runs_in_the_guests_shell(
    linux_kernel: Path, address: str, commands: str, printed: str, status: int
) -> None:
    command = [*VMBUS, "guest", "run", address, "--timeout", "180"]
    done = subprocess.run(command, input=commands, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stdout
    assert printed in done.stdout


def test_a_raw_terminal_gets_every_line_from_its_beginning(linux_kernel: Path, address: str) -> None:
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    options = GuestOptions(address, linux_kernel, script=["say hello"])
    with os.fdopen(theirs, "wb") as terminal, LinuxGuest(options, console=terminal) as guest:
        shown = b""
        while b"VMBUS-EXIT" not in shown and select.select([ours], [], [], 60)[0]:
            shown += os.read(ours, 65536)
        guest.kill()
    os.close(ours)
    assert len(re.findall(rb"\r\n", shown)) > 20
    assert not re.search(rb"(?<!\r)\n", shown)
