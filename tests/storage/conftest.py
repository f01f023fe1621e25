"""Disks to test: in memory, and in a sparse file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.testing.scsi import Initiator


@pytest.fixture
def disk() -> ScsiDisk:
    return ScsiDisk(MemoryBackend(1 << 20), Identity.of("test"))


@pytest.fixture
def tester(disk: ScsiDisk) -> Initiator:
    return Initiator(disk)


@pytest.fixture
def image(tmp_path: Path) -> Callable[[int], FileBackend]:
    def make(size: int) -> FileBackend:
        path = tmp_path / "disk.img"
        with path.open("wb") as file:
            file.truncate(size)
        return FileBackend(str(path))

    return make
