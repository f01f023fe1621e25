"""A guest's side of a capture can be played again, and does again what it did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dissectors.replay import ReplayFailed, plan_replay
from dissectors.testing import GUEST, Script
from vmbus.wire import control as c
from vmbus.wire.control_values import MessageType

StartHost = Callable[..., AbstractContextManager[str]]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vmbus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_a_replay_leaves_the_same_disk_as_the_guest_did(start_host: StartHost, tmp_path: Path) -> None:
    first, second, capture = tmp_path / "first.img", tmp_path / "second.img", tmp_path / "capture.pcapng"
    for disk in (first, second):
        disk.write_bytes(bytes(1 << 20))
    with start_host(tmp_path, "--scsi", str(first), "-w", str(capture), "--snap", str(1 << 20)) as address:
        assert run("guest", "run", "--python", address, "--timeout", "1").returncode == 0
    with start_host(tmp_path, "--scsi", str(second)) as address:
        result = run("replay", str(capture), address, "--fast")
    assert result.returncode == 0, result.stdout + result.stderr
    assert first.read_bytes() == second.read_bytes() != bytes(1 << 20)


def test_a_host_that_offers_something_else_is_told_apart(start_host: StartHost, recorded: Path, tmp_path: Path) -> None:
    with start_host(tmp_path, "--device", "echo") as address:
        result = run("replay", str(recorded), address, "--fast")
    assert result.returncode == 1
    assert result.stderr.startswith("vmbus: the host") or "0 of" in result.stdout


def test_a_page_beyond_all_memory_is_refused_in_one_line(script: Script) -> None:
    words = (4096, 1 << 60)
    header = c.GpadlHeader(channel_id=3, gpadl_id=7, range_bytes=16, range_count=1, words=words)
    number = script.message(GUEST, MessageType.GPADL_HEADER, header)
    with pytest.raises(ReplayFailed, match=rf"^record {number} names page 0x1000000000000000, which no guest's memory"):
        plan_replay(script.decode())


def test_a_capture_without_a_guest_is_refused_in_one_line(script: Script, tmp_path: Path) -> None:
    script.records = script.records[1:2]
    result = run("replay", str(script.write(tmp_path / "a.pcapng")), "unix:/nowhere")
    assert result.returncode == 1 and result.stderr == "vmbus: the capture holds nothing that a guest sent\n"
    with pytest.raises(ReplayFailed):
        plan_replay([])
