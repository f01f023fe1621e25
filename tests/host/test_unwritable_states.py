"""A state that cannot be written: a host does not start with it, and does not end because of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.cli import main
from vmbus.host.servicing import Servicing
from vmbus.testing.servicing import Restarts


@pytest.mark.parametrize("name", ["nowhere/state", "file/state"])
def test_a_host_whose_state_cannot_be_written_does_not_start(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["host", f"unix:{tmp_path / 's'}", "--device", "echo", "--state", str(tmp_path / name)]) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert re.fullmatch(rf"vmbus: cannot (read|write) the state {tmp_path / name}: \w[^:]*", line) and not out
    assert not (tmp_path / "s").exists()


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    Servicing(tmp_path / "state").close()
    assert not list(tmp_path.iterdir())


def test_a_guest_goes_on_when_the_state_cannot_be_written_any_more(
    restarts: Callable[..., Restarts], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = restarts()
    disk, obstacle = bus.disk(), tmp_path / "state.new"
    obstacle.mkdir()
    for slot in bus.host.slots[1:]:
        bus.in_host(slot.rescind)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 1, timeout=60)
    assert disk.read(0, 1) == bytes(512)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith(f"cannot write the state {bus.state}: Is a directory: ")
    assert not bus.state.exists()  # an old one would be taken for what is true now
    obstacle.rmdir()
    bus.in_host(bus.host.slots[1].reoffer)
    assert bus.guest.loop.run(lambda: len(bus.guest.drivers) == 2, timeout=60)
    bus.restart(kill=True)
    assert disk.read(0, 1) == bytes(512)


def test_a_guest_is_served_when_the_journal_cannot_be_written(
    restarts: Callable[..., Restarts], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.journal.new").mkdir()
    bus = restarts()
    assert bus.disk().read(0, 1) == bytes(512)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith("cannot write the journal ")
    assert not bus.state.exists()
