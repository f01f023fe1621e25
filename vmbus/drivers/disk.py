"""A disk of a storage controller, for tests and tools of the guest: read, write, flush, discard, and wait for it.

``wait`` is what settles a promise, usually ``DriverBus.wait``. Transfers larger than the controller takes at once
are split. Errors are :class:`~vmbus.drivers.storage.ScsiError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vmbus.drivers.promise import Promise
from vmbus.drivers.storage import FIRST_UNIT, Address, Completion, GuestBuffer, ScsiError, StorageLink
from vmbus.pages import PageAllocator
from vmbus.wire.schema import Format
from vmbus.wire.scsi import response_format
from vmbus.wire.scsi.block import Cache10, Transfer16, Unmap, UnmapDescriptor, UnmapList
from vmbus.wire.scsi.capacity import Capacity16, LunList, ReportLuns, ServiceActionIn16
from vmbus.wire.scsi.inquiry import Inquiry, StandardInquiry
from vmbus.wire.scsi.opcodes import Cdb, Opcode, ServiceActionIn
from vmbus.wire.scsi.primary import TestUnitReady
from vmbus.wire.vstor import DataDirection

T = TypeVar("T")


class Disk:
    """One unit. The first thing to ask is its capacity, which :meth:`open` does."""

    def __init__(
        self,
        link: StorageLink,
        pages: PageAllocator,
        wait: Callable[[Promise[Any]], Any],
        address: Address = FIRST_UNIT,
    ) -> None:
        self.link = link
        self.address = address
        self.blocks = 0
        self.block_size = 512
        self._pages = pages
        self._wait = wait

    def open(self) -> Disk:
        """Wait until the unit is ready, and learn its size."""
        for _ in range(5):  # unit attentions are told once each
            try:
                self.run(TestUnitReady(opcode=Opcode.TEST_UNIT_READY))
                break
            except ScsiError:
                continue
        command = ServiceActionIn16(
            opcode=Opcode.SERVICE_ACTION_IN_16, service_action=ServiceActionIn.READ_CAPACITY_16, allocation_length=32
        )
        capacity = Capacity16.parse(self.run(command, length=32))
        self.blocks, self.block_size = capacity.last_lba + 1, capacity.block_size
        return self

    def run(self, command: Cdb, *, data: bytes = b"", length: int = 0) -> bytes:
        """Run any command; ``data`` goes out with it, or up to ``length`` bytes come back."""
        buffer = GuestBuffer(self._pages, len(data) or length, scattered=True) if data or length else None
        try:
            if buffer is not None and data:
                buffer.write(data)
            direction = DataDirection.OUT if data else DataDirection.IN
            completion: Completion = self._wait(self.link.execute(self.address, command, buffer, direction))
            if not completion.is_good:
                raise ScsiError(completion)
            return buffer.read(completion.transferred) if buffer is not None and length else b""
        finally:
            if buffer is not None:
                buffer.release()

    def ask(self, command: Cdb, length: int) -> Format:
        """Run a command and parse what it returns."""
        fmt = response_format(command.build())
        assert fmt is not None, f"{command.opcode} returns nothing that has a format"
        return fmt.parse(self.run(command, length=length))

    def inquiry(self) -> StandardInquiry:
        """Standard INQUIRY data; also of a unit that is not there, which says so in its qualifier."""
        return StandardInquiry.parse(self.run(Inquiry(opcode=Opcode.INQUIRY, allocation_length=255), length=255))

    def luns(self) -> list[int]:
        """The LUNs of this unit's target."""
        data = self.run(ReportLuns(opcode=Opcode.REPORT_LUNS, allocation_length=4096), length=4096)
        return [entry.lun for entry in LunList.parse(data).luns]

    def read(self, lba: int, blocks: int) -> bytes:
        """Read blocks."""
        pieces = []
        for first, count in self._split(lba, blocks):
            command = Transfer16(opcode=Opcode.READ_16, lba=first, length=count)
            pieces.append(self.run(command, length=count * self.block_size))
        return b"".join(pieces)

    def write(self, lba: int, data: bytes, *, fua: bool = False) -> None:
        """Write whole blocks; ``fua`` waits for the medium."""
        if len(data) % self.block_size:
            raise ValueError(f"{len(data)} bytes are not whole blocks of {self.block_size}")
        position = 0
        for first, count in self._split(lba, len(data) // self.block_size):
            size = count * self.block_size
            command = Transfer16(opcode=Opcode.WRITE_16, lba=first, length=count, fua=int(fua))
            self.run(command, data=data[position : position + size])
            position += size

    def flush(self) -> None:
        """Return when everything written would survive a power cut."""
        self.run(Cache10(opcode=Opcode.SYNCHRONIZE_CACHE_10))

    def discard(self, lba: int, blocks: int) -> None:
        """Discard blocks."""
        one = UnmapDescriptor(lba=lba, length=blocks)
        data = UnmapList(data_length=22, descriptors_length=16, descriptors=(one,)).build()
        self.run(Unmap(opcode=Opcode.UNMAP, list_length=len(data)), data=data)

    def _split(self, lba: int, blocks: int) -> list[tuple[int, int]]:
        """``(first, count)`` pieces that the controller takes at once."""
        step = max((self.link.properties.max_transfer or 1 << 16) // self.block_size, 1)
        return [(lba + start, min(step, blocks - start)) for start in range(0, blocks, step)]
