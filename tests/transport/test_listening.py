"""Connections are taken as they come; a full table of descriptors keeps them waiting, and nobody busy."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.loop import Loop
from vmbus.testing.descriptors import full_table
from vmbus.transport.address import Address
from vmbus.transport.listening import Listener


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_who_comes_while_the_table_of_descriptors_is_full_is_taken_later(loop: Loop, tmp_path: Path) -> None:
    taken: list[socket.socket] = []
    listener = Listener(loop, Address("unix", str(tmp_path / "socket")), taken.append)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "socket"))
        before = time.thread_time()
        with full_table():
            assert not loop.run(lambda: bool(taken), timeout=0.4)
        assert time.thread_time() - before < 0.2
        assert loop.run(lambda: bool(taken), timeout=60)
    listener.close()
    taken[0].close()
    assert not list(tmp_path.iterdir())


def test_a_listener_that_pauses_can_be_closed(loop: Loop, tmp_path: Path) -> None:
    listener = Listener(loop, Address("unix", str(tmp_path / "socket")), lambda connection: connection.close())
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "socket"))
        with full_table():
            loop.run_once(1.0)
        listener.close()
        assert not loop.run(lambda: False, timeout=0.3)
