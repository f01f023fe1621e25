"""A fake host for each test, at a socket of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmbus.testing.fake_host import FakeHost


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[Callable[..., FakeHost]]:
    hosts: list[FakeHost] = []

    def start(**options: Any) -> FakeHost:
        hosts.append(FakeHost(tmp_path / "s", **options))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def host(start_host: Callable[..., FakeHost]) -> FakeHost:
    return start_host()
