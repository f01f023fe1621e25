"""The synthetic interrupt controller: message slots and event flags in guest memory, seen from both ends.

Each virtual processor has two pages that the guest names in registers: SIMP with 16 message slots of 256 bytes, one
for each SINT, and SIEFP with 2,048 event flags for each SINT.  The host fills a slot only when it is free
(``message_type`` 0) and sets event flags with atomic operations, because the guest clears them at the same time; when a
slot is taken it sets ``message_pending``, and the guest then writes EOM as soon as it has emptied the slot.

Sources: TLFS chapter 11; Linux ``include/asm-generic/hyperv-tlfs.h``, ``drivers/hv/vmbus_drv.c``
(``vmbus_signal_eom``, ``vmbus_chan_sched``); openvmm ``vmm_core/virt/src/synic.rs``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vmbus.atomics import AtomicView, CtypesAtomicView
from vmbus.errors import VmbusError
from vmbus.interrupt import BadInterrupt, Interrupt
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.wire.hypervisor import (
    EVENT_FLAG_COUNT,
    EVENT_FLAGS_SIZE,
    MESSAGE_SIZE,
    HvMessageFlags,
    HvMessageHeader,
    HvMessageType,
    Msr,
)
from vmbus.wire.partition import POLLING_WORD_OFFSET

MAX_QUEUED = 4096
"""Messages that wait for a guest's slot; a guest that never empties it gets no more (its connection ends)."""

_ENABLE = 1
_SINT_MASKED = 1 << 16
_PAGE_MASK = ~0xFFF
_CRASH_NOTIFY, _CRASH_MESSAGE = 1 << 63, 1 << 62
"""In CRASH_CTL, when it is read: crashes are taken note of, and may have a message."""


class SynicError(VmbusError):
    """The guest's synic cannot be used as it is set up."""


class MessageQueueFull(SynicError):
    """The guest does not empty its message slot."""


class SynicMessage(NamedTuple):
    """A message taken out of a slot."""

    sint: int
    message_type: int
    payload: bytes


class SynicVp:
    """One virtual processor's synic, as the host keeps it.

    The registers are the guest's to set; what they name is checked when it is used.
    """

    def __init__(self, index: int, memory: GuestMemory, interrupt: int, *, has_polling_word: bool = False) -> None:
        """``interrupt`` is the pipe or eventfd that wakes the processor, and stays the caller's.

        Raises ``BadInterrupt``.
        """
        self.index = index
        self.registers: dict[int, int] = {}
        self._began = time.monotonic_ns()
        self._memory = memory
        self._interrupt = Interrupt(interrupt)
        self._has_polling_word = has_polling_word
        self._messages: CtypesAtomicView | None = None
        self._message_page: memoryview | None = None
        self._flags: CtypesAtomicView | None = None
        self._flags_page: memoryview | None = None
        self._queues: dict[int, deque[tuple[int, bytes, int]]] = {}
        self._to_compare: set[int] = set()
        """SINTs whose first waiting messages an earlier process may have delivered."""

    # Registers

    def set_register(self, number: int, value: int) -> None:
        """The guest wrote a register.  Raises ``OutsideGuestMemory`` when a page lies outside its memory."""
        if number == Msr.EOM:
            self._deliver_queued()
            return
        if not Msr(number).is_known:
            return
        if number == Msr.SIMP:
            self._drop_messages()
            if value & _ENABLE:
                self._message_page = self._memory.view(value & _PAGE_MASK, PAGE_SIZE)
                self._messages = AtomicView(self._message_page)
        elif number == Msr.SIEFP:
            self._drop_flags()
            if value & _ENABLE:
                self._flags_page = self._memory.view(value & _PAGE_MASK, PAGE_SIZE)
                self._flags = AtomicView(self._flags_page)
        self.registers[number] = value
        self._deliver_queued()

    def get_register(self, number: int) -> int:
        """What the processor is, what the host can do, or what the guest last wrote; 0 for every other register."""
        match number:
            case Msr.VP_INDEX:
                return self.index
            case Msr.TIME_REF_COUNT:
                return (time.monotonic_ns() - self._began) // 100
            case Msr.CRASH_CTL:
                return _CRASH_NOTIFY | _CRASH_MESSAGE
            case _:
                return self.registers.get(number, 0)

    @property
    def queued(self) -> dict[int, int]:
        """How many messages wait for a free slot, by SINT."""
        return {sint: len(queue) for sint, queue in self._queues.items() if queue}

    def _accepts(self, sint: int) -> bool:
        return bool(self.registers.get(Msr.SCONTROL, 0) & _ENABLE) and not (
            self.registers.get(Msr.SINT0 + sint, _SINT_MASKED) & _SINT_MASKED
        )

    # To the guest

    def post_message(self, sint: int, message_type: int, payload: bytes, number: int = 0) -> None:
        """Put a message into the slot of ``sint``, or queue it until the slot is free.

        ``number`` (16 bits) goes with it, in two bytes of the slot that nobody else uses; they stay there when the
        guest has taken the message, and tell a later process that it was delivered.

        Raises ``MessageQueueFull``.
        """
        queue = self._queues.setdefault(sint, deque())
        if len(queue) >= MAX_QUEUED:
            raise MessageQueueFull(f"processor {self.index} does not empty its message slot {sint}")
        queue.append((message_type, payload, number))
        self._deliver(sint)

    def post_again(self, sint: int, message_type: int, payload: bytes, number: int) -> None:
        """Post a message that an earlier process had to deliver, unless the slot shows that it did."""
        self._to_compare.add(sint)
        self.post_message(sint, message_type, payload, number)

    def signal_event(self, sint: int, flag: int) -> bool:
        """Set an event flag; interrupt the processor if it was clear and is not polled.

        False when the guest cannot be reached.
        """
        if self._flags is None or not self._accepts(sint) or not 0 <= flag < EVENT_FLAG_COUNT:
            return False
        offset = sint * EVENT_FLAGS_SIZE + flag // 64 * 8
        bit = 1 << (flag & 63)
        if not self._flags.fetch_or64(offset, bit) & bit and not self._is_polled:
            self.interrupt()
        return True

    @property
    def _is_polled(self) -> bool:
        """Whether the guest says that it sees flags by itself; asked after one was set, as the guest looks after it has
        said so no longer.
        """
        return self._has_polling_word and self._flags is not None and self._flags.load32(POLLING_WORD_OFFSET) != 0

    def can_signal(self, sint: int) -> bool:
        """Whether the guest has set the processor up so that events of ``sint`` reach it."""
        return self._flags is not None and self._accepts(sint)

    def interrupt(self) -> None:
        """Wake the processor."""
        self._interrupt.raise_()

    def _deliver_queued(self) -> None:
        for sint in self._queues:
            self._deliver(sint)

    def _deliver(self, sint: int) -> None:
        queue = self._queues.get(sint)
        if not queue or self._messages is None or self._message_page is None or not self._accepts(sint):
            return
        slot = sint * MESSAGE_SIZE
        if sint in self._to_compare:
            self._to_compare.remove(sint)
            newest = self._messages.load32(slot + 4) >> 16
            while queue and (newest - queue[0][2]) & 0xFFFF < 0x8000:
                queue.popleft()
            if not queue:
                return
        if self._messages.load32(slot) != 0:
            self._messages.fetch_or32(slot + 4, int(HvMessageFlags.MESSAGE_PENDING) << 8)
            if self._messages.load32(slot) != 0:
                return  # the guest will write EOM
        message_type, payload, number = queue.popleft()
        flags = HvMessageFlags.MESSAGE_PENDING if queue else HvMessageFlags(0)
        header = HvMessageHeader(
            message_type=HvMessageType(message_type), payload_size=len(payload), flags=flags, reserved=number
        ).build()
        self._message_page[slot + 8 : slot + len(header)] = header[8:]
        self._message_page[slot + len(header) : slot + len(header) + len(payload)] = payload
        # Type and number appear together: a process that is killed here has delivered both or neither.
        self._messages.exchange64(slot, int.from_bytes(header[:8], "little"))
        self.interrupt()

    # Ending

    def _drop_messages(self) -> None:
        if self._messages is not None and self._message_page is not None:
            self._messages.release()
            self._message_page.release()
        self._messages = self._message_page = None

    def _drop_flags(self) -> None:
        if self._flags is not None and self._flags_page is not None:
            self._flags.release()
            self._flags_page.release()
        self._flags = self._flags_page = None

    def queued_messages(self) -> list[tuple[int, int, bytes, int]]:
        """Messages that wait for a slot: SINT, type, payload, number."""
        return [(sint, *message) for sint, queue in self._queues.items() for message in queue]

    def close(self) -> None:
        """Let the guest's memory and the interrupt go."""
        self._drop_messages()
        self._drop_flags()
        self._interrupt.close()


def make_vps(memory: GuestMemory, interrupts: Sequence[int], *, has_polling_word: bool = False) -> list[SynicVp]:
    """All processors of a guest, or none.  Raises ``BadInterrupt``; the descriptors stay the caller's."""
    made: list[SynicVp] = []
    try:
        for index, interrupt in enumerate(interrupts):
            made.append(SynicVp(index, memory, interrupt, has_polling_word=has_polling_word))
    except BadInterrupt:
        for vp in made:
            vp.close()
        raise
    return made


class GuestSynicVp:
    """One virtual processor's synic, as a guest of ours uses it: its two pages, and what has arrived in them."""

    def __init__(
        self,
        index: int,
        memory: GuestMemory,
        message_pfn: int,
        flags_pfn: int,
        write_register: Callable[[int, int, int], None],
    ) -> None:
        """``write_register`` is called with processor, number and value."""
        self.index = index
        self._pages = [memory.view(pfn * PAGE_SIZE, PAGE_SIZE) for pfn in (message_pfn, flags_pfn)]
        self._pfns = (message_pfn, flags_pfn)
        self._messages = AtomicView(self._pages[0])
        self._flags = AtomicView(self._pages[1])
        self._write_register = write_register

    def enable(self, sint: int, vector: int = 0xF3) -> None:
        """Set the registers up so that the host can reach ``sint`` (Linux ``hv_synic_enable_regs``)."""
        for number, value in (
            (Msr.SIMP, self._pfns[0] << 12 | _ENABLE),
            (Msr.SIEFP, self._pfns[1] << 12 | _ENABLE),
            (Msr.SINT0 + sint, vector),
            (Msr.SCONTROL, _ENABLE),
        ):
            self._write_register(self.index, int(number), value)

    def disable(self, sint: int) -> None:
        """Take the registers back, so that the host touches the pages no more."""
        for number, value in (
            (Msr.SINT0 + sint, _SINT_MASKED),
            (Msr.SIMP, 0),
            (Msr.SIEFP, 0),
            (Msr.SCONTROL, 0),
        ):
            self._write_register(self.index, int(number), value)

    def take_message(self, sint: int) -> SynicMessage | None:
        """Empty the slot of ``sint``; tells the host if it has more.  The payload is a copy."""
        slot = sint * MESSAGE_SIZE
        message_type = self._messages.load32(slot)
        if not message_type:
            return None
        copy = bytes(self._pages[0][slot : slot + MESSAGE_SIZE])
        header = HvMessageHeader.parse(copy)
        payload = copy[HvMessageHeader.SIZE : HvMessageHeader.SIZE + header.payload_size]
        self._messages.exchange32(slot, 0)
        if self._messages.load32(slot + 4) >> 8 & HvMessageFlags.MESSAGE_PENDING:
            self._write_register(self.index, int(Msr.EOM), 0)
        return SynicMessage(sint, message_type, payload)

    def take_event_flags(self, sint: int) -> list[int]:
        """Clear the event flags of ``sint`` and return the numbers of those that were set."""
        return take_flags(self._flags, sint * EVENT_FLAGS_SIZE)

    def close(self) -> None:
        """Let the pages go."""
        for view in (self._messages, self._flags):
            view.release()
        for page in self._pages:
            page.release()


def take_flags(view: CtypesAtomicView, start: int) -> list[int]:
    """Clear the 2,048 flags that begin at ``start``, and return the numbers of those that were set."""
    flags: list[int] = []
    for word in range(EVENT_FLAG_COUNT // 64):
        offset = start + word * 8
        if not view.load64(offset):
            continue
        found = view.exchange64(offset, 0)
        while found:
            lowest = found & -found
            flags.append(word * 64 + lowest.bit_length() - 1)
            found ^= lowest
    return flags
