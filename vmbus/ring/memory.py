"""The memory of one ring: a control page and the data, and the words of the control page by name.

Sources: openvmm ``vmbus_ring/src/lib.rs`` (``Control``, ``RingMem``); Linux ``include/linux/hyperv.h`` (``struct
hv_ring_buffer``).
"""

from __future__ import annotations

from typing import NamedTuple

from vmbus.memory import PAGE_SIZE, MemoryInUse
from vmbus.ring.errors import InvalidRingMemory, InvalidRingPointer
from vmbus.wire.ring import ControlPage

# Indices into the control page seen as 32-bit words.
WRITE_INDEX, READ_INDEX, INTERRUPT_MASK, PENDING_SEND_SIZE, FEATURE_BITS = 0, 1, 2, 3, 16

MAX_RING_SIZE = 1 << 30
"""Bytes. Offsets stay far below 2**32, so that no sum of two of them overflows in C."""


class RingState(NamedTuple):
    """The words of a control page at one moment, unchecked, for people to look at."""

    write_index: int
    read_index: int
    interrupt_mask: int
    pending_send_size: int
    feature_bits: int
    size: int


class RingMemory:
    """A control page and ``size`` bytes of data, in memory that the peer can change at any time.

    ``data`` may show the ring twice, back to back (``mirrored``); a packet that wraps is then a single slice.
    ``words`` is the control page as native 32-bit words: an access to one of them is one machine access and never
    torn.
    """

    __slots__ = ("control", "data", "mirrored", "size", "words")

    def __init__(self, control: memoryview, data: memoryview, size: int | None = None) -> None:
        """``size`` is the ring's size where ``data`` shows it twice. Both views are this object's from now on."""
        self.size = len(data) if size is None else size
        if not 0 < self.size <= MAX_RING_SIZE or self.size % PAGE_SIZE:
            raise InvalidRingMemory(f"a ring cannot have {self.size} bytes: whole 4096-byte pages, up to 1 GiB")
        if len(data) not in (self.size, 2 * self.size) or len(control) < ControlPage.SIZE:
            raise InvalidRingMemory(
                f"a ring of {self.size} bytes cannot be {len(control)} bytes of control page and {len(data)} of data"
            )
        self.mirrored = len(data) != self.size
        self.data = data
        self.control = control
        self.words = control[: len(control) & ~3].cast("I")

    @classmethod
    def from_view(cls, view: memoryview, *, mirrored: bool) -> RingMemory:
        """Take a control page with the data behind it, as :meth:`vmbus.memory.GuestMemory.map_pages` gives them."""
        length = len(view) - PAGE_SIZE
        if length <= 0:
            raise InvalidRingMemory(f"{len(view)} bytes are too few for a ring: one control page and at least one page")
        return cls(view[:PAGE_SIZE], view[PAGE_SIZE:], length // 2 if mirrored else length)

    @classmethod
    def private(cls, size: int) -> RingMemory:
        """Make a ring in memory of our own, for tests and for use within a process."""
        return cls.from_view(memoryview(bytearray(PAGE_SIZE + size)), mirrored=False)

    def index(self, word: int) -> int:
        """Load the write or read index and check it: :class:`InvalidRingPointer` unless it lies in the ring."""
        index = self.words[word]
        if index >= self.size or index & 7:
            raise InvalidRingPointer("write" if word == WRITE_INDEX else "read", index, self.size)
        return index

    def state(self) -> RingState:
        """Read the control page for a person."""
        words = self.words
        return RingState(
            words[WRITE_INDEX], words[READ_INDEX], words[INTERRUPT_MASK], words[PENDING_SEND_SIZE],
            words[FEATURE_BITS], self.size,
        )  # fmt: skip

    def read(self, offset: int, length: int) -> bytes:
        """Copy ``length`` bytes out, around the ring's end if need be. The caller has checked both numbers.

        ``offset`` may itself lie beyond the end: where a packet that started before it goes on.
        """
        if offset >= self.size:
            offset -= self.size
        end = offset + length
        if end <= len(self.data):
            return bytes(self.data[offset:end])
        return bytes(self.data[offset : self.size]) + bytes(self.data[: end - self.size])

    def write(self, offset: int, content: bytes) -> None:
        """Copy ``content`` in, around the ring's end if need be. The caller has checked the room."""
        end = offset + len(content)
        if end <= len(self.data):
            self.data[offset:end] = content
        else:
            head = self.size - offset
            self.data[offset : self.size] = content[:head]
            self.data[: end - self.size] = content[head:]

    def release(self) -> None:
        """Let the memory go, so that it can be unmapped."""
        try:
            for view in (self.words, self.control, self.data):
                view.release()
        except BufferError as error:
            raise MemoryInUse("a ring is still in use: a view of its memory is held") from error
