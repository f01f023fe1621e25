"""A SCSI disk over a backend: sectors of 512 bytes, of 512 bytes on 4096-byte blocks (512e), or of 4096 bytes (4Kn).

Sources: openvmm ``scsidisk/src/lib.rs`` and ``inquiry.rs``; Linux 6.12 ``drivers/scsi/sd.c``; T10's SBC-3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast
from uuid import UUID

from vmbus.devices.storage import block_commands, common_commands, discard_commands
from vmbus.devices.storage.backend import Backend, BackendError
from vmbus.devices.storage.common_commands import nothing
from vmbus.devices.storage.discard_commands import MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME
from vmbus.devices.storage.disk_unit import DiskUnit
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.media import MAX_TRANSFER
from vmbus.devices.storage.unit import Command
from vmbus.wire.schema import Format
from vmbus.wire.scsi.inquiry import (
    BlockDeviceCharacteristics,
    BlockLimits,
    LogicalBlockProvisioning,
    MsftPagingExtent,
    MsftVirtualDevice,
    ProvisioningType,
    SerialNumber,
    VpdHeader,
    VpdPage,
)  # fmt: skip
from vmbus.wire.scsi.mode import (
    ControlPage,
    ErrorRecoveryPage,
    InformationalExceptionsPage,
    LongCachingPage,
    ModePageCode,
)  # fmt: skip
from vmbus.wire.scsi.opcodes import DeviceType, Opcode
from vmbus.wire.scsi.sense import AdditionalSense

_MSFT_VIRTUAL_DISK = UUID("89a98f15-c928-4d8b-94cd-ef51faa99d33")


class ScsiDisk(DiskUnit):
    """A disk that cannot be taken out of its drive, but with its drive."""

    device_type = DeviceType.DISK
    has_fua = True
    commands: ClassVar[Mapping[int, Command]] = cast(
        "Mapping[int, Command]",
        {
            **common_commands.COMMANDS,
            **block_commands.COMMANDS,
            **discard_commands.COMMANDS,
            Opcode.PREVENT_ALLOW: nothing,
            Opcode.FORMAT_UNIT: nothing,
        },
    )

    def __init__(self, backend: Backend, identity: Identity, *, sector: int = 512, physical: int = 0) -> None:
        """``physical`` is the block size that the disk recommends, 0 for its own sectors.

        Raises :class:`BackendError` if the sizes do not fit each other.
        """
        physical = physical or sector
        if sector not in (512, 4096) or physical not in (512, 4096) or physical < sector:
            raise BackendError(f"sectors of {sector} bytes on blocks of {physical} do not exist: 512 or 4096")
        super().__init__(identity, sector, physical)
        self.set_medium(backend)
        backend.on_resize = self._on_resize

    def _on_resize(self) -> None:
        """The backend has another size; called from any thread."""
        self.runner.submit(lambda: None, lambda _: self._take_new_size())

    def _take_new_size(self) -> None:
        backend = self.check_ready()
        blocks = backend.size >> self.shift
        if blocks != self.blocks:
            self.blocks = blocks
            self.attend(AdditionalSense.CAPACITY_DATA_CHANGED)
            self.on_change()

    def vpd_pages(self) -> dict[int, VpdHeader]:
        backend = self.check_ready()
        discard = int(backend.can_discard)
        granularity = max(1, 4096 >> self.shift)
        pages: tuple[VpdHeader, ...] = (
            SerialNumber(
                page=VpdPage.SERIAL_NUMBER, page_length=len(self.identity.serial), serial=self.identity.serial
            ),
            self.identity.designation(self.device_type),
            BlockLimits(
                page=VpdPage.BLOCK_LIMITS,
                page_length=BlockLimits.SIZE - 4,
                write_same_non_zero=1,
                max_compare_and_write=self.max_compare_blocks,
                optimal_granularity=granularity,
                max_transfer=MAX_TRANSFER >> self.shift,
                optimal_transfer=MAX_TRANSFER >> self.shift,
                max_unmap_blocks=0xFFFFFFFF * discard,
                max_unmap_descriptors=MAX_UNMAP_DESCRIPTORS * discard,
                unmap_granularity=granularity * discard,
                unmap_alignment_valid=discard,
                max_write_same=MAX_WRITE_SAME >> self.shift,
            ),
            BlockDeviceCharacteristics(
                page=VpdPage.BLOCK_DEVICE_CHARACTERISTICS, page_length=BlockDeviceCharacteristics.SIZE - 4
            ),
            LogicalBlockProvisioning(
                page=VpdPage.LOGICAL_BLOCK_PROVISIONING,
                page_length=LogicalBlockProvisioning.SIZE - 4,
                threshold_exponent=max(1, (self.blocks >> 32).bit_length()),
                unmap=discard,
                write_same_16=discard,
                write_same_10=discard,
                read_zeros=int(discard and backend.discarded_reads_zero),
                provisioning_type=ProvisioningType.THIN if discard else ProvisioningType.NOT_REPORTED,
            ),
            MsftPagingExtent(page=VpdPage.MSFT_PAGING_EXTENT, page_length=4, mode_select_extension=1),
            MsftVirtualDevice(page=VpdPage.MSFT_VIRTUAL_DEVICE, page_length=20, signature=_MSFT_VIRTUAL_DISK),
        )
        return {page.page: page for page in pages}

    def mode_pages(self) -> dict[int, Format]:
        return {
            ModePageCode.ERROR_RECOVERY: ErrorRecoveryPage(),
            ModePageCode.CACHING: LongCachingPage(write_cache=int(self.write_cache)),
            ModePageCode.CONTROL: ControlPage(queue_algorithm=1),
            ModePageCode.INFORMATIONAL_EXCEPTIONS: InformationalExceptionsPage(disable_control=1),
        }

    def changeable_pages(self) -> dict[int, Format]:
        return {**super().changeable_pages(), ModePageCode.CACHING: LongCachingPage(write_cache=1)}

    def set_mode_page(self, code: int, parameters: bytes) -> None:
        if code == ModePageCode.CACHING:
            self.write_cache = bool(LongCachingPage.parse(parameters).write_cache)
            self.update()

    def update(self) -> None:
        super().update()
        self.is_clear = self.is_clear and self.write_cache

    def state(self) -> dict[str, Any]:
        return {**super().state(), "write_cache": self.write_cache}

    def restore(self, state: dict[str, Any]) -> None:
        self.write_cache = state.get("write_cache", True)
        super().restore(state)

    def inspect(self) -> dict[str, Any]:
        return {**super().inspect(), "write_cache": self.write_cache}
