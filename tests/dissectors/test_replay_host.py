"""The host's side of a capture can be played again to a live guest, which finds everything as it was."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dissectors.engine.source import decode_capture
from dissectors.replay import ReplayFailed, plan_host
from dissectors.testing import Script
from vmbus.errors import VmbusError
from vmbus.guest.program import GATEWAY, Workload, booted_guest
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until

StartHost = Callable[..., AbstractContextManager[str]]


@dataclass
class Replay:
    """A ``vmbus replay --as host`` in a process of its own; what it said is there when it has ended."""

    address: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def wait(self, timeout: float = 120) -> int:
        _, errors = self.process.communicate(timeout=timeout)
        self.lines += errors.splitlines()[1:]
        return self.process.returncode


@contextmanager
def replaying(capture: Path, folder: Path, *options: str) -> Iterator[Replay]:
    """Play a capture's host at a socket in ``folder``."""
    socket = folder / "replay.sock"
    command = [sys.executable, "-m", "vmbus", "replay", str(capture), f"unix:{socket}", "--as", "host", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert until(lambda: socket.exists() or process.poll() is not None) and process.poll() is None
        yield Replay(f"unix:{socket}", process)
    finally:
        process.kill()
        process.wait(60)


def use(address: str, lbas: tuple[int, ...] = (5, 700), *, ping: bool = True) -> bytes:
    """A Python guest pings and reads blocks; what it read. By then the host has what the card said about the answer."""
    with booted_guest(address) as guest:
        workload = Workload(guest)
        assert workload.disk is not None and workload.card is not None
        if ping:
            workload.card.ping(GATEWAY, 100)
        found = b"".join(workload.disk.read(lba, 8) for lba in lbas)
        guest.unload()
    return found


@pytest.fixture(scope="module")
def recording(start_host: StartHost, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A Python guest's use of a disk and a card, recorded whole; and what it read."""
    folder = tmp_path_factory.mktemp("recording")
    disk, capture = folder / "disk.img", folder / "capture.pcapng"
    disk.write_bytes(random.Random(1).randbytes(1 << 20))
    options = ["--scsi", str(disk), "--nic", "embedded", "-w", str(capture), "--snap", "65536"]
    with start_host(folder, *options) as address:
        found = use(address)
    return capture, found


@pytest.mark.linux
def test_linux_reads_a_file_system_that_is_only_in_the_capture(
    start_host: StartHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    files, disk, capture = tmp_path / "files", tmp_path / "disk.img", tmp_path / "capture.pcapng"
    files.mkdir()
    (files / "novel").write_bytes(bytes(range(256)) * 1200)
    disk.write_bytes(bytes(8 << 20))
    subprocess.run(["mkfs.ext4", "-qF", "-d", str(files), str(disk)], check=True)
    script = ["report", "mount /dev/sda /mnt ext4 ro", "sh sha256sum /mnt/novel", "umount /mnt"]
    options = ["--scsi", str(disk), "--nic", "embedded", "-w", str(capture), "--snap", "1048576"]
    with start_host(tmp_path, *options) as address:
        assert linux_guest(address, script).wait(180) == 0
    disk.unlink()
    with replaying(capture, tmp_path, "--fast") as replay:
        guest = linux_guest(replay.address, script)
        assert guest.wait(180) == 0
        assert replay.wait() == 0, replay.lines
    assert hashlib.sha256((files / "novel").read_bytes()).hexdigest() in "\n".join(guest.lines)


@pytest.mark.parametrize("pace", ["--fast", "--speed=2"])
def test_a_python_guest_finds_the_same_blocks_and_the_same_gateway(
    recording: tuple[Path, bytes], tmp_path: Path, pace: str
) -> None:
    capture, found = recording
    with replaying(capture, tmp_path, pace) as replay:
        assert use(replay.address) == found
        assert replay.wait() == 0 and replay.lines == []


def test_a_guest_that_asks_for_something_else_is_told_apart(recording: tuple[Path, bytes], tmp_path: Path) -> None:
    with replaying(recording[0], tmp_path, "--fast") as replay:
        with pytest.raises(VmbusError):
            use(replay.address, lbas=(5, 701))
        assert replay.wait() == 1
    assert "not in the recording: EXECUTE_SRB 0:0:0 READ_16 lba 701 +8" in replay.lines[0]
    assert any("did not come" in line and "lba 700" in line for line in replay.lines)


def test_a_guest_that_does_less_is_told_apart(recording: tuple[Path, bytes], tmp_path: Path) -> None:
    with replaying(recording[0], tmp_path, "--fast") as replay:
        use(replay.address, ping=False)
        assert replay.wait() == 1
    assert len(replay.lines) == 1 and "packets did not come" in replay.lines[0]


def test_a_request_that_comes_once_more_is_answered_as_before(recording: tuple[Path, bytes], tmp_path: Path) -> None:
    with replaying(recording[0], tmp_path, "--fast") as replay:
        assert use(replay.address, lbas=(5, 700, 5))[-4096:] == recording[1][:4096]
        assert replay.wait() == 1
    assert "once more than in the recording" in replay.lines[0]


def test_answers_that_were_recorded_in_part_are_announced(recorded: Path) -> None:
    assert plan_host(decode_capture(str(recorded))).incomplete > 0


def test_a_capture_without_a_host_is_refused(script: Script, tmp_path: Path) -> None:
    script.records = script.records[:1]
    capture = script.write(tmp_path / "guest-only.pcapng")
    with pytest.raises(ReplayFailed, match="does not hold what a host answered"):
        plan_host(decode_capture(str(capture)))
