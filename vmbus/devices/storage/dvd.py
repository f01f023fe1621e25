"""A DVD drive: a read-only unit of 2048-byte blocks, what it says of itself and which commands it takes.

Sources: openvmm ``scsidisk/src/scsidvd/mod.rs``; T10's MMC-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from vmbus.devices.storage import common_commands, dvd_commands
from vmbus.devices.storage.dvd_drive import DvdDrive
from vmbus.devices.storage.unit import Command
from vmbus.wire.schema import Format
from vmbus.wire.scsi.inquiry import SerialNumber, VpdHeader, VpdPage
from vmbus.wire.scsi.mode import (
    CapabilitiesPage,
    ErrorRecoveryPage,
    ModePage,
    ModePageCode,
    ModeParameters6,
    ModeParameters10,
    PowerConditionPage,
    TimeoutProtectPage,
)  # fmt: skip
from vmbus.wire.scsi.opcodes import DeviceType, Opcode

_READ_SPEED = 1350 * 24


class ScsiDvd(DvdDrive):
    """A drive with or without a disc."""

    device_type = DeviceType.DVD
    attention_passes = DvdDrive.attention_passes | {Opcode.GET_EVENT_STATUS, Opcode.GET_CONFIGURATION}
    commands: ClassVar[Mapping[int, Command]] = cast(
        "Mapping[int, Command]", {**common_commands.COMMANDS, **dvd_commands.COMMANDS}
    )

    def vpd_pages(self) -> dict[int, VpdHeader]:
        pages: tuple[VpdHeader, ...] = (
            SerialNumber(
                device_type=self.device_type,
                page=VpdPage.SERIAL_NUMBER,
                page_length=len(self.identity.serial),
                serial=self.identity.serial,
            ),
            self.identity.designation(self.device_type),
        )
        return {page.page: page for page in pages}

    def mode_pages(self) -> dict[int, Format]:
        return {
            ModePageCode.ERROR_RECOVERY: ErrorRecoveryPage(),
            ModePageCode.POWER_CONDITION: PowerConditionPage(),
            ModePageCode.TIMEOUT_PROTECT: TimeoutProtectPage(),
            ModePageCode.CAPABILITIES: CapabilitiesPage(
                dvd_rom_read=1, cd_r_read=1, cd_rw_read=1, mode2_form1=1, mode2_form2=1, multi_session=1, lock=1,
                lock_state=int(bool(self.locked_by)), eject=1, loading_mechanism=1, max_read_speed=_READ_SPEED,
                read_speed=_READ_SPEED, buffer_size=1024,
            ),
        }  # fmt: skip

    def mode_parameters(
        self, pages: list[ModePage], *, short: bool, descriptors: bool
    ) -> ModeParameters6 | ModeParameters10:
        return super().mode_parameters(pages, short=short, descriptors=False)
