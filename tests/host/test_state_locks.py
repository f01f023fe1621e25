"""A state belongs to one host at a time, and to the next one as soon as that is gone, however it went."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.cli import main
from vmbus.host.servicing import Servicing
from vmbus.host.state_lock import StateInUse, StateLock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def holder(state: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps its guest's state there."""
    code = """
import pathlib, sys
from vmbus.host.state_lock import StateLock
held = StateLock(pathlib.Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_second_host_of_a_state_does_not_start_and_says_who_has_it(
    state: Path, holder: subprocess.Popen[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.host.state_lock.PATIENCE_SECONDS", 0.1)
    assert main(["host", f"unix:{state}.socket", "--device", "echo", "--state", str(state)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    said = rf"vmbus: the state {state} is in use by another host \(process {holder.pid}\): .*"
    assert re.fullmatch(said, line)


def test_a_killed_host_keeps_its_state_from_nobody(state: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert Path(f"{state}.lock").exists()
    Servicing(state).close()


def test_a_host_waits_for_its_predecessor_to_end(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbus.host.state_lock.PATIENCE_SECONDS", 60.0)
    first = StateLock(state)
    threading.Timer(0.3, first.close).start()
    StateLock(state).close()


def test_whoever_comes_after_one_that_removed_the_lock_is_still_alone(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmbus.host.state_lock.PATIENCE_SECONDS", 0.1)
    first = StateLock(state)
    late = os.open(f"{state}.lock", os.O_RDWR)  # has opened the file, and has not got it yet
    first.close()
    second = StateLock(state)
    assert os.fstat(late).st_nlink == 0
    with pytest.raises(StateInUse):
        StateLock(state)
    os.close(late)
    second.close()


def test_a_state_in_a_directory_that_is_not_there_is_one_clear_error(state: Path) -> None:
    with pytest.raises(Exception, match=r"cannot write the state .*: No such file"):
        StateLock(state / "deeper" / "state")
