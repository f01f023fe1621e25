"""A host with a vsock relay and a Python guest, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.testing.vsock import VsockPair, vsock_pair


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[VsockPair]:
    with vsock_pair(tmp_path / "v") as pair:
        yield pair
