"""A host is never stopped by what a guest does with the descriptors that interrupt its processors."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.interrupt import BadInterrupt, Interrupt
from vmbus.memory import GuestMemory
from vmbus.synic import make_vps
from vmbus.testing.descriptors import full_table, open_descriptors


@pytest.fixture(params=["pipe", "eventfd"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """What the guest reads, and what it hands over."""
    if request.param == "pipe":
        read, write = os.pipe()
        yield read, write
        os.close(write)
    else:
        read = os.eventfd(0)
        yield read, read
    os.close(read)


def fill(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    try:
        os.eventfd_write(descriptor, (1 << 64) - 2)
        while True:
            os.eventfd_write(descriptor, 1)
    except BlockingIOError:
        pass


def test_a_guest_that_reads_is_interrupted(ends: tuple[int, int]) -> None:
    interrupt = Interrupt(ends[1])
    interrupt.raise_()
    assert os.read(ends[0], 8) == (1).to_bytes(8, "little")
    interrupt.close()


def test_a_full_descriptor_that_blocks_does_not_stop_the_host(ends: tuple[int, int]) -> None:
    interrupt = Interrupt(ends[1])
    fill(ends[1])
    os.set_blocking(ends[1], True)  # the guest can, whatever its host has set
    signal.alarm(60)
    interrupt.raise_()
    signal.alarm(0)
    interrupt.close()


def test_a_guest_that_is_gone_is_interrupted_in_vain() -> None:
    read, write = os.pipe()
    interrupt = Interrupt(write)
    os.close(read)
    os.close(write)
    interrupt.raise_()
    interrupt.close()


def test_a_pipe_of_another_user_is_asked_before_each_write(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        interrupt = Interrupt(ends[1])
    fill(ends[1])
    os.set_blocking(ends[1], True)
    signal.alarm(60)
    interrupt.raise_()
    signal.alarm(0)
    interrupt.close()


def test_what_may_wait_for_whatever_is_behind_it_is_refused(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right, (tmp_path / "file").open("wb") as file, open(os.devnull, "wb") as null:
        for other in (left, file, null):
            with pytest.raises(BadInterrupt, match="neither a pipe nor an eventfd"):
                Interrupt(other.fileno())


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_processors_whose_interrupts_do_not_fit_the_table_leave_none_behind(spare: int) -> None:
    with GuestMemory.create(4096) as memory:
        interrupts = [os.eventfd(0) for _ in range(3)]
        before = open_descriptors()
        with full_table(spare), pytest.raises(BadInterrupt, match="open files"):
            make_vps(memory, interrupts)
        assert open_descriptors() == before
        for interrupt in interrupts:
            os.close(interrupt)
