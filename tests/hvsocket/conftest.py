"""A host with a vsock relay and a Python guest, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.testing.vsock import VsockPair, vsock_pair


@pytest.fixture(autouse=True)
def _nobody_is_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a test of impatience has to do with how quick this machine is."""
    for name in ("OPEN", "ACCEPT", "REQUEST", "BUSY"):
        monkeypatch.setattr(f"vmbus.devices.hvsocket.relay.{name}_SECONDS", 60.0)


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[VsockPair]:
    with vsock_pair(tmp_path / "v") as pair:
        yield pair
