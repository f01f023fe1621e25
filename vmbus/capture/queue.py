"""The bounded queue between the host's loop and the process that writes the capture: bytes in shared memory.

One producer, one consumer. The producer never blocks and never makes a system call unless the consumer sleeps: what
finds no room is counted and dropped. The memory is a sealed memfd whose data is mapped twice, back to back, so that
every piece is one slice. It outlives the producer: what was put before a SIGKILL is still there for the consumer.

Layout: a page of 64-bit words (:data:`HEAD` ...), then the data. ``head`` and ``tail`` count bytes since the
beginning; they never wrap in practice. Not a VMBus ring, because a ring's packets are bounded by its size and carry
24 bytes each, and because here the consumer takes whatever is there in one copy.
"""

from __future__ import annotations

import os

from vmbus.atomics import acquire_fence, release_fence
from vmbus.memory import PAGE_SIZE, GuestMemory, Mapping

DEFAULT_SIZE = 8 << 20

HEAD, TAIL, LOST, RECORDS, SLEEPING, WRITTEN = range(6)
"""Words of the first page: bytes put, bytes taken, records lost, records put, "the consumer sleeps", bytes written."""

_RESERVED_SHARE = 8
"""One part in so many is kept for the control plane: without it, nothing after it decodes."""


class QueueMemory:
    """The shared memory of a queue: ``words`` and ``data``, and the file descriptor to hand to the other process."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        pages = memory.size // PAGE_SIZE
        self._mapping: Mapping = memory.map_pages(range(pages), mirrored_from=1)
        self.size = memory.size - PAGE_SIZE
        self.words = self._mapping.view[:PAGE_SIZE].cast("Q")
        self.data = self._mapping.view[PAGE_SIZE:]

    @classmethod
    def create(cls, size: int = DEFAULT_SIZE) -> QueueMemory:
        """New memory for ``size`` bytes, a multiple of 4096."""
        return cls(GuestMemory.create(size + PAGE_SIZE, "vmbus-capture-queue"))

    @classmethod
    def attach(cls, fd: int) -> QueueMemory:
        """The memory behind a file descriptor that the producer handed over."""
        return cls(GuestMemory.attach(fd, os.fstat(fd).st_size))

    @property
    def fd(self) -> int:
        return self._memory.fd

    def close(self) -> None:
        if not self._mapping.closed:
            self.words.release()
            self.data.release()
            self._mapping.close()
            self._memory.close()


class Producer:
    """The end that the host's loop puts records in."""

    def __init__(self, memory: QueueMemory, doorbell: int) -> None:
        """``doorbell`` is an eventfd that the consumer waits on while it sleeps; it stays the caller's."""
        self._words = memory.words
        self._data = memory.data
        self.size = memory.size
        self._reserve = memory.size // _RESERVED_SHARE
        self._head = memory.words[HEAD]
        self._doorbell = doorbell

    def has_room(self, length: int) -> bool:
        """Whether ``length`` bytes would find room."""
        return self._head - self._words[TAIL] + length <= self.size

    def put(self, data: bytes, records: int, *, reserve: bool = True) -> bool:
        """Put whole records; False, and nothing put, when there is no room: the caller then counts them."""
        words, head, size = self._words, self._head, self.size
        length = len(data)
        if head - words[TAIL] + length + (self._reserve if reserve else 0) > size:
            return False
        acquire_fence()
        at = head % size
        self._data[at : at + length] = data
        release_fence()
        self._head = head = head + length
        words[HEAD] = head
        words[RECORDS] += records
        if words[SLEEPING]:
            words[SLEEPING] = 0
            os.eventfd_write(self._doorbell, 1)
        return True

    def lose(self, records: int) -> None:
        """Count records that found no room."""
        self._words[LOST] += records

    def retire(self) -> None:
        """Let the shared memory go; from now on nothing finds room."""
        self._words = memoryview(bytearray(8 * (WRITTEN + 1))).cast("Q")
        self._head = self.size = self._reserve = 0


class Consumer:
    """The end that the writer takes records from."""

    def __init__(self, memory: QueueMemory) -> None:
        self._words = memory.words
        self._data = memory.data
        self.size = memory.size
        self._tail = memory.words[TAIL]

    @property
    def lost(self) -> int:
        """Records that found no room, so far."""
        return self._words[LOST]

    @property
    def is_empty(self) -> bool:
        return self._words[HEAD] == self._tail

    def take(self) -> bytearray:
        """All that is there, copied and taken out; whole records, because the producer puts whole ones."""
        head = self._words[HEAD]
        length = head - self._tail
        if not 0 < length <= self.size:
            return bytearray()
        acquire_fence()
        at = self._tail % self.size
        taken = bytearray(self._data[at : at + length])
        release_fence()
        self._tail = head
        self._words[TAIL] = head
        return taken

    def sleep(self) -> bool:
        """Announce that the doorbell is needed from now on; False if something came in just then.

        The announcement and the producer's look at it are not ordered by a fence: whoever waits uses a timeout too.
        """
        self._words[SLEEPING] = 1
        if self.is_empty:
            return True
        self._words[SLEEPING] = 0
        return False

    def wake(self) -> None:
        """Take the announcement back."""
        self._words[SLEEPING] = 0

    def count_written(self, length: int) -> None:
        """Tell the producer's side how much has reached the file."""
        self._words[WRITTEN] += length
