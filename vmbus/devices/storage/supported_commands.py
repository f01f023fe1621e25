"""REPORT SUPPORTED OPERATION CODES: which commands a unit takes, and which bits of them it looks at.

The bits are those of the declared command blocks; Linux's sd asks whether WRITE SAME is there.

Sources: T10's SPC-4 6.34; Linux 6.12 ``drivers/scsi/scsi.c`` (``scsi_report_opcode``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmbus.devices.storage.result import Result, invalid_field
from vmbus.devices.storage.task import Task
from vmbus.wire.fields import Kind
from vmbus.wire.schema import Format
from vmbus.wire.scsi import cdb_format
from vmbus.wire.scsi.opcodes import MaintenanceAction, Opcode, ServiceActionIn
from vmbus.wire.scsi.primary import (
    CommandTimeouts,
    MaintenanceIn,
    OneSupportedCommand,
    SupportedCommand,
    SupportedCommands,
)  # fmt: skip
from vmbus.wire.scsi.reservation import ReserveIn, ReserveOut

if TYPE_CHECKING:
    from vmbus.devices.storage.media import MediaUnit

SERVICE_ACTIONS: Mapping[int, tuple[int, ...]] = {
    Opcode.SERVICE_ACTION_IN_16: (ServiceActionIn.READ_CAPACITY_16, ServiceActionIn.GET_LBA_STATUS),
    Opcode.MAINTENANCE_IN: (MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES,),
    Opcode.PERSISTENT_RESERVE_IN: (
        ReserveIn.READ_KEYS, ReserveIn.READ_RESERVATION, ReserveIn.REPORT_CAPABILITIES, ReserveIn.READ_FULL_STATUS,
    ),
    Opcode.PERSISTENT_RESERVE_OUT: (
        ReserveOut.REGISTER, ReserveOut.RESERVE, ReserveOut.RELEASE, ReserveOut.CLEAR, ReserveOut.PREEMPT,
        ReserveOut.PREEMPT_AND_ABORT, ReserveOut.REGISTER_AND_IGNORE,
    ),
}  # fmt: skip
"""Of the operation codes that have some, those that are taken."""

_NOT_SUPPORTED, _AS_THE_STANDARD_SAYS = 1, 3


def report_supported_operation_codes(unit: MediaUnit, task: Task) -> Result:
    command = MaintenanceIn.parse(task.cdb)
    opcode, action = command.requested_opcode, command.requested_service_action
    timeouts = (CommandTimeouts(),) * command.timeouts
    data: Format
    match command.reporting_options:
        case 0:
            data = _all(unit, timeouts)
        case 1 if opcode in unit.commands and opcode in SERVICE_ACTIONS:
            raise invalid_field(2)
        case 2 if opcode in unit.commands and opcode not in SERVICE_ACTIONS:
            raise invalid_field(2)
        case 1 | 2 | 3:
            supported = opcode in unit.commands and action in SERVICE_ACTIONS.get(opcode, (action,))
            usage = _usage(unit, opcode, action) if supported else ()
            data = OneSupportedCommand(
                support=_AS_THE_STANDARD_SAYS if supported else _NOT_SUPPORTED,
                cdb_length=len(usage),
                usage=usage,
                timeouts_present=int(supported and bool(timeouts)),
                timeouts=timeouts if supported else (),
            )
        case _:
            raise invalid_field(2)
    return task.give(data.build(), command.allocation_length)


def _all(unit: MediaUnit, timeouts: tuple[CommandTimeouts, ...]) -> SupportedCommands:
    commands = tuple(
        SupportedCommand(
            opcode=Opcode(opcode),
            service_action=action or 0,
            service_action_valid=int(action is not None),
            cdb_length=cdb_format(bytes([opcode]), unit.device_type).SIZE,
            timeouts_present=len(timeouts),
            timeouts=timeouts,
        )
        for opcode, action in _taken(unit)
    )
    return SupportedCommands(length=sum(len(one.build()) for one in commands), commands=commands)


def _taken(unit: MediaUnit) -> Iterator[tuple[int, int | None]]:
    """Every operation code, once for each service action if it has some."""
    for opcode in sorted(unit.commands):
        yield from ((opcode, action) for action in SERVICE_ACTIONS.get(opcode, (None,)))


def _usage(unit: MediaUnit, opcode: int, action: int) -> tuple[int, ...]:
    """The command block with a one for every bit that means something."""
    fmt = cdb_format(bytes([opcode]), unit.device_type)
    ones: dict[str, Any] = {
        field.name: (1 << (field.width or 8 * field.size)) - 1
        for field in fmt.FIELDS
        if field.kind in (Kind.INT, Kind.BITS) and not field.name.startswith(("reserved", "obsolete", "control"))
    }
    ones["opcode"] = opcode
    if opcode in SERVICE_ACTIONS:
        ones["service_action"] = action
    return tuple(fmt(**ones).build())
