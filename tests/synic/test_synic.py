"""Messages and event flags reach a virtual processor exactly once, and queued ones follow when it says EOM."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from vmbus.memory import GuestMemory, OutsideGuestMemory
from vmbus.synic import MAX_QUEUED, GuestSynicVp, MessageQueueFull, SynicVp, make_vps
from vmbus.wire.hypervisor import Msr
from vmbus.wire.partition import POLLING_WORD_OFFSET

SINT = 2


class Ends:
    """The same processor as host and guest see it; registers that the guest writes reach the host at once."""

    def __init__(self) -> None:
        self.memory = GuestMemory.create(1 << 20)
        self.interrupt = os.eventfd(0, os.EFD_NONBLOCK)
        self.host = SynicVp(0, self.memory, self.interrupt)
        self.guest = GuestSynicVp(0, self.memory, 4, 5, lambda vp, number, value: self.host.set_register(number, value))

    def interrupts(self) -> int:
        try:
            return os.eventfd_read(self.interrupt)
        except BlockingIOError:
            return 0


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.guest.close()
    ends.host.close()
    ends.memory.close()
    os.close(ends.interrupt)


def test_messages_arrive_in_order_with_one_slot(ends: Ends) -> None:
    ends.guest.enable(SINT)
    for number in range(5):
        ends.host.post_message(SINT, 1, bytes([number]) * 8)
    received = []
    while (message := ends.guest.take_message(SINT)) is not None:
        received.append(message.payload)
    assert received == [bytes([number]) * 8 for number in range(5)]
    assert ends.interrupts() == 5


def test_a_message_waits_until_the_guest_enables_its_pages(ends: Ends) -> None:
    ends.host.post_message(SINT, 1, b"early")
    assert ends.interrupts() == 0
    ends.guest.enable(SINT)
    message = ends.guest.take_message(SINT)
    assert message is not None
    assert message.payload == b"early"


def test_an_event_flag_is_seen_once_and_interrupts_once(ends: Ends) -> None:
    ends.guest.enable(SINT)
    for flag in (1, 64, 2047, 64):
        assert ends.host.signal_event(SINT, flag)
    assert ends.interrupts() == 3
    assert ends.guest.take_event_flags(SINT) == [1, 64, 2047]
    assert ends.guest.take_event_flags(SINT) == []


def test_a_masked_sint_gets_no_events(ends: Ends) -> None:
    ends.guest.enable(SINT)
    ends.guest.disable(SINT)
    assert not ends.host.signal_event(SINT, 1)


def test_pages_outside_guest_memory_are_refused(ends: Ends) -> None:
    with pytest.raises(OutsideGuestMemory):
        ends.host.set_register(Msr.SIMP, 1 << 40 | 1)


def test_a_guest_that_never_empties_its_slot_is_given_up(ends: Ends) -> None:
    ends.guest.enable(SINT)
    for _ in range(MAX_QUEUED + 1):
        ends.host.post_message(SINT, 1, b"x")
    with pytest.raises(MessageQueueFull):
        ends.host.post_message(SINT, 1, b"x")


@pytest.mark.parametrize("delivered", [0, 1, 2])
def test_another_process_delivers_what_the_slot_does_not_show(ends: Ends, delivered: int) -> None:
    numbers = (65535, 0) if delivered else (1, 2)
    ends.guest.enable(SINT)
    for number in numbers[:delivered]:
        ends.host.post_message(SINT, 1, bytes([number & 255]), number)
        assert ends.guest.take_message(SINT) is not None
    registers = dict(ends.host.registers)
    ends.host.close()
    ends.host = SynicVp(0, ends.memory, ends.interrupt)
    for number in numbers:
        ends.host.post_again(SINT, 1, bytes([number & 255]), number)
    for register, value in registers.items():
        ends.host.set_register(register, value)
    received = []
    while (message := ends.guest.take_message(SINT)) is not None:
        received.append(message.payload)
    assert received == [bytes([number & 255]) for number in numbers[delivered:]]


def test_registers_that_do_not_exist_are_not_kept(ends: Ends) -> None:
    for number in (0, 0x40000200, 0xFFFFFFFF):
        ends.host.set_register(number, 1)
        assert ends.host.get_register(number) == 0
    assert not ends.host.registers


def test_a_processor_says_which_it_is_what_time_it_is_and_that_crashes_are_noted(ends: Ends) -> None:
    memory, interrupts = ends.memory, [ends.interrupt] * 2
    first, second = make_vps(memory, interrupts)
    assert (first.get_register(Msr.VP_INDEX), second.get_register(Msr.VP_INDEX)) == (0, 1)
    began, before = time.monotonic_ns(), first.get_register(Msr.TIME_REF_COUNT)
    time.sleep(0.01)
    after, ended = first.get_register(Msr.TIME_REF_COUNT), time.monotonic_ns()
    assert 100_000 <= after - before <= (ended - began) // 100 + 1
    first.set_register(Msr.CRASH_CTL, 1 << 63)
    assert first.get_register(Msr.CRASH_CTL) == 0b11 << 62
    for vp in (first, second):
        vp.close()


def test_a_guest_that_polls_its_flags_is_not_interrupted(ends: Ends) -> None:
    ends.host = SynicVp(0, ends.memory, ends.interrupt, has_polling_word=True)
    ends.guest.enable(SINT)
    word = ends.memory.view(5 * 4096 + POLLING_WORD_OFFSET, 4)
    word[:] = b"\1\0\0\0"
    assert ends.host.signal_event(SINT, 7)
    assert ends.interrupts() == 0
    assert ends.guest.take_event_flags(SINT) == [7]
    word[:] = bytes(4)
    ends.host.signal_event(SINT, 7)
    assert ends.interrupts() == 1
    word.release()


def test_a_guest_that_polls_no_longer_when_its_flag_is_set_is_interrupted(ends: Ends) -> None:
    """It looks for the last time after it has said so: whoever asked before setting the flag would lose the event."""
    ends.host = SynicVp(0, ends.memory, ends.interrupt, has_polling_word=True)
    ends.guest.enable(SINT)
    ends.memory.write(5 * 4096 + POLLING_WORD_OFFSET, b"\1\0\0\0")
    flags = ends.host._flags

    class LastLook:
        def __getattr__(self, name: str) -> object:
            return getattr(flags, name)

        def fetch_or64(self, offset: int, bits: int) -> int:
            ends.memory.write(5 * 4096 + POLLING_WORD_OFFSET, bytes(4))
            return flags.fetch_or64(offset, bits)

    ends.host._flags = LastLook()
    ends.host.signal_event(SINT, 7)
    assert ends.interrupts() == 1
    ends.host._flags = flags


def test_the_polling_word_of_a_guest_that_did_not_announce_it_is_nothing_special(ends: Ends) -> None:
    ends.guest.enable(SINT)
    ends.memory.write(5 * 4096 + POLLING_WORD_OFFSET, b"\1\0\0\0")
    ends.host.signal_event(SINT, 7)
    assert ends.interrupts() == 1
