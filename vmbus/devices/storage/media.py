"""A unit that has a medium of blocks, whichever it is: reading and writing it, its mode pages, its answer to INQUIRY.

Blocks go straight between the backend and the guest's pages when the backend can do it at once. Otherwise a worker
does it on a copy, so that nothing of the guest's memory is in a thread's hands when the guest goes away.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from vmbus.devices.storage.backend import Backend, BackendError
from vmbus.devices.storage.buffers import cut, scatter
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.result import (
    ABORTED,
    CheckCondition,
    Result,
    backend_failure,
    illegal_request,
    not_ready,
)  # fmt: skip
from vmbus.devices.storage.task import IN, OUT, Task
from vmbus.devices.storage.unit import LogicalUnit
from vmbus.wire.schema import Format
from vmbus.wire.scsi.inquiry import InquiryExtension, StandardInquiry, VpdHeader
from vmbus.wire.scsi.mode import BlockDescriptor, ModePage, ModeParameters6, ModeParameters10
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey

MAX_TRANSFER = 1 << 20
"""The most bytes that one command moves; what the controller and the block limits page say."""


class MediaUnit(LogicalUnit):
    """Base of :class:`ScsiDisk` and :class:`ScsiDvd`."""

    aborted_by_another = ABORTED

    def __init__(self, identity: Identity, block_size: int) -> None:
        super().__init__()
        self.identity = identity
        self.block_size = block_size
        self.shift = block_size.bit_length() - 1
        self.backend: Backend | None = None
        self.blocks = 0
        self.reads = self.writes = self.bytes_read = self.bytes_written = 0

    def set_medium(self, backend: Backend | None) -> None:
        """Put a medium in, or take it out. Raises :class:`BackendError` if it does not fit the unit's blocks."""
        if backend is not None:
            if backend.block_size > self.block_size:
                raise BackendError(
                    f"the backend's blocks of {backend.block_size} bytes are larger than sectors of {self.block_size}"
                )
            if backend.size < self.block_size:
                raise BackendError(f"{backend.size} bytes are too few for a sector of {self.block_size}")
        self.backend = backend
        self.blocks = backend.size >> self.shift if backend is not None else 0
        self.update()

    def reopen(self, state: dict[str, Any]) -> None:
        """Open the medium that an earlier process, which left ``state``, had been given at run time."""

    def amend(self, state: dict[str, Any]) -> dict[str, Any]:
        """``state``, with the medium that there is by now."""
        return state

    @property
    def is_ready(self) -> bool:
        return self.backend is not None

    def check_ready(self) -> Backend:
        """The medium; NOT READY if there is none."""
        if self.backend is None:
            raise not_ready(AdditionalSense.MEDIUM_NOT_PRESENT)
        return self.backend

    @property
    def is_read_only(self) -> bool:
        return self.backend is None or self.backend.read_only

    def check_range(self, lba: int, blocks: int, *, largest: int = MAX_TRANSFER) -> None:
        """ILLEGAL REQUEST unless the blocks are on the medium, and no more bytes than one command moves."""
        if lba + blocks > self.blocks:
            raise illegal_request(AdditionalSense.LBA_OUT_OF_RANGE, information=lba)
        if blocks << self.shift > largest:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)

    def check_writable(self) -> Backend:
        """The medium; DATA PROTECT if nobody may write to it."""
        backend = self.check_ready()
        if backend.read_only:
            raise CheckCondition(SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED)
        return backend

    def buffer(self, task: Task, direction: int, blocks: int) -> tuple[list[memoryview], int]:
        """The part of the guest's buffer that a transfer of so many blocks uses, and its bytes."""
        size = blocks << self.shift
        if task.direction != direction or size > task.length:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)
        return cut(task.views, size), size

    def read(self, task: Task, lba: int, blocks: int) -> Result | None:
        """Read blocks into the guest's buffer."""
        backend = self.check_ready()
        self.check_range(lba, blocks)
        if not blocks:
            return Result()
        views, size = self.buffer(task, IN, blocks)
        offset = lba << self.shift
        self.reads += 1
        self.bytes_read += size
        try:
            if backend.read_at_once(views, offset):
                return Result(transferred=size)
        except OSError as error:
            raise backend_failure(error, writing=False, lba=lba) from error

        def work() -> bytearray:
            data = bytearray(size)
            try:
                backend.read_into([memoryview(data)], offset)
            except OSError as error:
                raise backend_failure(error, writing=False, lba=lba) from error
            return data

        def done(data: bytearray) -> Result:
            scatter(data, cut(task.views, size))  # not what was cut above: the task may have been abandoned
            return Result(transferred=size)

        return self.run(task, work, done, size=size)

    def write(self, task: Task, lba: int, blocks: int, *, durable: bool = False) -> Result | None:
        """Write blocks from the guest's buffer; ``durable`` waits until a power cut could not undo it."""
        backend = self.check_writable()
        self.check_range(lba, blocks)
        if not blocks:
            return Result()
        views, size = self.buffer(task, OUT, blocks)
        offset = lba << self.shift
        self.writes += 1
        self.bytes_written += size
        try:
            if backend.quick_writes and not durable:
                backend.write_from(views, offset)
                return Result(transferred=size)
        except OSError as error:
            raise backend_failure(error, writing=True, lba=lba) from error
        data = bytearray()

        def prepare() -> None:
            for view in cut(task.views, size):
                data.extend(view)

        def work() -> None:
            try:
                write = backend.write_durably if durable else backend.write_from
                write([memoryview(data)], offset)
            except OSError as error:
                raise backend_failure(error, writing=True, lba=lba) from error

        return self.run(task, work, lambda _: Result(transferred=size), size=size, prepare=prepare)

    # What the unit says about itself

    def standard_inquiry(self) -> StandardInquiry:
        return StandardInquiry(
            device_type=self.device_type,
            removable=int(self.is_removable),
            additional_length=StandardInquiry.SIZE + InquiryExtension.SIZE - 5,
            command_queue=1,
            vendor=self.identity.vendor,
            product=self.identity.product,
            revision=self.identity.revision,
            extension=InquiryExtension(),
        )

    @property
    def is_removable(self) -> bool:
        """Whether the medium comes out of the unit."""
        return False

    @abstractmethod
    def vpd_pages(self) -> dict[int, VpdHeader]:
        """Every vital product data page but page 0."""

    @abstractmethod
    def mode_pages(self) -> dict[int, Format]:
        """The parameters of every mode page."""

    def changeable_pages(self) -> dict[int, Format]:
        """The same pages with a one for each bit that MODE SELECT may change: none, unless a unit says so."""
        return {code: type(page).parse(bytes(page.SIZE)) for code, page in self.mode_pages().items()}

    def set_mode_page(self, code: int, parameters: bytes) -> None:
        """Take up a page that MODE SELECT changed within its changeable bits."""

    def mode_parameters(
        self, pages: list[ModePage], *, short: bool, descriptors: bool
    ) -> ModeParameters6 | ModeParameters10:
        """What MODE SENSE returns, with its lengths."""
        listed = (BlockDescriptor(blocks=min(self.blocks, 0xFFFFFFFF), block_size=self.block_size),)
        block_descriptors = listed if descriptors and self.is_ready else ()
        size = 8 * len(block_descriptors) + sum(2 + page.length for page in pages)
        protected = int(self.is_ready and self.is_read_only)
        if short:
            return ModeParameters6(
                data_length=3 + size,
                write_protected=protected,
                fua=int(self.has_fua),
                block_descriptor_length=8 * len(block_descriptors),
                block_descriptors=block_descriptors,
                pages=tuple(pages),
            )
        return ModeParameters10(
            data_length=6 + size,
            write_protected=protected,
            fua=int(self.has_fua),
            block_descriptor_length=8 * len(block_descriptors),
            block_descriptors=block_descriptors,
            pages=tuple(pages),
        )

    has_fua = False
    """Whether a write can be asked to reach the medium before it is completed."""

    def inspect(self) -> dict[str, Any]:
        return {
            **super().inspect(),
            "id": str(self.identity.unit_id),
            "block_size": self.block_size,
            "blocks": self.blocks,
            "reads": self.reads,
            "writes": self.writes,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "backend": self.backend.inspect() if self.backend is not None else None,
        }

    def let_go(self, backend: Backend) -> None:
        """Close a backend, when the last worker that may be using it is back."""
        backend.interrupt()
        self.when_idle(backend.close)

    def close(self) -> None:
        if self.backend is not None:
            self.abort(ABORTED)
            self.let_go(self.backend)
            self.set_medium(None)
        self.when_idle(lambda: self.runner.close())
