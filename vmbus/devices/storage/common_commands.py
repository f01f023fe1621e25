"""SCSI commands that disk and DVD have in common: what the unit is, its mode pages, its reservations.

Each is a function of the unit and the task, as in :mod:`vmbus.devices.storage.unit`.

Sources: T10's SPC-4; openvmm ``scsidisk/src/lib.rs`` (``handle_mode_sense``, ``handle_request_sense``) and
``inquiry.rs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmbus.devices.storage.reservations import Conflict
from vmbus.devices.storage.result import (
    GOOD,
    RESERVATION_CONFLICT,
    CheckCondition,
    Result,
    illegal_request,
    invalid_field,
    invalid_parameter,
)  # fmt: skip
from vmbus.devices.storage.supported_commands import report_supported_operation_codes
from vmbus.devices.storage.task import Task
from vmbus.wire.schema import Format
from vmbus.wire.scsi.inquiry import Inquiry, SupportedPages, VpdPage
from vmbus.wire.scsi.mode import ModePage, ModePageCode, ModeSense6, ModeSense10, PageControl
from vmbus.wire.scsi.opcodes import MaintenanceAction, Opcode
from vmbus.wire.scsi.primary import MaintenanceIn, RequestSense, SendDiagnostic
from vmbus.wire.scsi.reservation import (
    FullStatus,
    FullStatusList,
    PersistentReserveIn,
    PersistentReserveOut,
    Reservation,
    ReservationKeys,
    Reservations,
    ReservationType,
    ReserveCapabilities,
    ReserveIn,
    ReserveOut,
    ReserveOutList,
)  # fmt: skip
from vmbus.wire.scsi.sense import AdditionalSense, DescriptorSense, FixedSense, SenseKey

if TYPE_CHECKING:
    from vmbus.devices.storage.media import MediaUnit


def test_unit_ready(unit: MediaUnit, task: Task) -> Result:
    unit.check_ready()
    return GOOD


test_unit_ready.__test__ = False  # type: ignore[attr-defined]  # a SCSI command, not a test


def nothing(unit: MediaUnit, task: Task) -> Result:
    """Commands that a virtual unit has nothing to do for."""
    return GOOD


def inquiry(unit: MediaUnit, task: Task) -> Result:
    command = Inquiry.parse(task.cdb)
    if command.command_support:
        raise invalid_field(1)
    if not command.vpd:
        if command.page:
            raise invalid_field(2)
        return task.give(unit.standard_inquiry().build(), command.allocation_length)
    pages = unit.vpd_pages()
    if command.page == VpdPage.SUPPORTED_PAGES:
        codes = tuple(map(VpdPage, sorted((VpdPage.SUPPORTED_PAGES, *pages))))
        page: Format = SupportedPages(
            device_type=unit.device_type, page=VpdPage.SUPPORTED_PAGES, page_length=len(codes), pages=codes
        )
    elif command.page in pages:
        page = pages[command.page]
    else:
        raise invalid_field(2)
    return task.give(page.build(), command.allocation_length)


def request_sense(unit: MediaUnit, task: Task) -> Result:
    """Autosense has told everything already; what is left is a unit attention, or that the unit is not ready."""
    command = RequestSense.parse(task.cdb)
    key, additional = SenseKey.NO_SENSE, AdditionalSense.NONE
    attention = unit.take_attention(task.initiator)
    if attention is not None:
        key, additional = SenseKey.UNIT_ATTENTION, attention
    else:
        try:
            unit.check_ready()
        except CheckCondition as failure:
            key, additional = failure.key, failure.additional
    fmt = DescriptorSense if command.descriptor_format else FixedSense
    return task.give(fmt(key=key, additional=additional).build(), command.allocation_length)


def mode_sense(unit: MediaUnit, task: Task) -> Result:
    fmt = ModeSense6 if task.cdb[0] == Opcode.MODE_SENSE_6 else ModeSense10
    command = fmt.parse(task.cdb)
    if command.page_control == PageControl.SAVED:
        raise illegal_request(AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED)
    if command.subpage not in (0, 0xFF):
        raise invalid_field(3)
    pages = unit.changeable_pages() if command.page_control == PageControl.CHANGEABLE else unit.mode_pages()
    if command.page != ModePageCode.ALL:
        pages = {code: page for code, page in pages.items() if code == command.page}
        if not pages:
            raise invalid_field(2)
    listed = [
        ModePage(code=ModePageCode(code), length=page.SIZE, parameters=page) for code, page in sorted(pages.items())
    ]
    data = unit.mode_parameters(listed, short=fmt is ModeSense6, descriptors=not command.no_block_descriptors)
    return task.give(data.build(), command.allocation_length)


def mode_select(unit: MediaUnit, task: Task) -> Result:
    """Take pages whose changed bits are all changeable, and nothing else; saving is not supported."""
    short = task.cdb[0] == Opcode.MODE_SELECT_6
    length = task.cdb[4] if short else int.from_bytes(task.cdb[7:9], "big")
    if task.cdb[1] & 1 or not task.cdb[1] & 0x10:
        raise invalid_field(1)
    data = task.take(length)
    if len(data) < length:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    if not length:
        return GOOD
    head = 4 if short else 8
    if length < head:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    position = head + (data[3] if short else int.from_bytes(data[6:8], "big"))
    if position > length:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    changed: dict[int, bytes] = {}
    current, changeable = unit.mode_pages(), unit.changeable_pages()
    while position < length:
        if position + 2 > length or position + 2 + data[position + 1] > length:
            raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
        code, size = data[position] & 0x3F, data[position + 1]
        body = data[position + 2 : position + 2 + size]
        if data[position] & 0x40 or code not in current or size != current[code].SIZE:
            raise invalid_parameter(position)
        _check_changes(body, current[code].build(), changeable[code].build(), position + 2)
        changed[code] = body
        position += 2 + size
    for code, body in changed.items():
        unit.set_mode_page(code, body)
    unit.attend(AdditionalSense.MODE_PARAMETERS_CHANGED, but=task.initiator)
    return Result(transferred=length)


def _check_changes(wanted: bytes, current: bytes, changeable: bytes, position: int) -> None:
    for index, (new, old, mask) in enumerate(zip(wanted, current, changeable, strict=True)):
        if (new ^ old) & ~mask:
            raise invalid_parameter(position + index)


def send_diagnostic(unit: MediaUnit, task: Task) -> Result:
    """Only the default self-test, which always passes."""
    command = SendDiagnostic.parse(task.cdb)
    if command.self_test_code or command.page_format or command.list_length:
        raise invalid_field(1)
    return GOOD


def maintenance_in(unit: MediaUnit, task: Task) -> Result:
    """The only one of them is REPORT SUPPORTED OPERATION CODES."""
    command = MaintenanceIn.parse(task.cdb)
    if command.service_action != MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES:
        raise invalid_field(1)
    return report_supported_operation_codes(unit, task)


def reserve(unit: MediaUnit, task: Task) -> Result:
    """RESERVE (6) and (10), of the whole unit."""
    if task.cdb[1] & 0x1F:
        raise invalid_field(1)
    try:
        unit.reservations.reserve_simple(task.initiator)
    except Conflict:
        return RESERVATION_CONFLICT
    unit.update()
    return GOOD


def release(unit: MediaUnit, task: Task) -> Result:
    """RELEASE (6) and (10)."""
    unit.reservations.release_simple(task.initiator)
    unit.update()
    return GOOD


def persistent_reserve_in(unit: MediaUnit, task: Task) -> Result:
    command = PersistentReserveIn.parse(task.cdb)
    state = unit.reservations
    data: Format
    match command.service_action:
        case ReserveIn.READ_KEYS:
            keys = tuple(state.keys.values())
            data = ReservationKeys(generation=state.generation, length=8 * len(keys), keys=keys)
        case ReserveIn.READ_RESERVATION:
            held: tuple[Reservation, ...] = ()
            if state.kind:
                held = (Reservation(key=state.holders_key, reservation_type=state.kind),)
            data = Reservations(generation=state.generation, length=16 * len(held), reservations=held)
        case ReserveIn.REPORT_CAPABILITIES:
            data = ReserveCapabilities(
                all_target_ports=1, persist_capable=1, persist_active=int(state.persist), type_mask_valid=1,
                write_exclusive=1, exclusive_access=1, write_exclusive_registrants=1, exclusive_access_registrants=1,
                write_exclusive_all_registrants=1, exclusive_access_all_registrants=1,
            )  # fmt: skip
        case ReserveIn.READ_FULL_STATUS:
            listed = tuple(
                FullStatus(
                    key=key,
                    holder=int(state.is_holder(who)),
                    reservation_type=state.kind if state.is_holder(who) else ReservationType.NONE,
                    descriptor_length=len(_transport_id(who)),
                    transport_id=_transport_id(who),
                )
                for who, key in state.keys.items()
            )
            length = sum(len(one.build()) for one in listed)
            data = FullStatusList(generation=state.generation, length=length, registrations=listed)
        case _:
            raise invalid_field(1)
    return task.give(data.build(), command.allocation_length)


def _transport_id(initiator: object) -> bytes:
    """A TransportID of 24 bytes, in the form that SAS has: SPC-4 7.6.4 knows none for VMBus."""
    return bytes((6, 0, 0, 0)) + str(initiator).encode()[:8].ljust(8, b"\0") + bytes(12)


def persistent_reserve_out(unit: MediaUnit, task: Task) -> Result:
    command = PersistentReserveOut.parse(task.cdb)
    if command.list_length != ReserveOutList.SIZE:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    data = task.take(ReserveOutList.SIZE)
    if len(data) < ReserveOutList.SIZE:
        raise illegal_request(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    parameters = ReserveOutList.parse(data)
    if command.scope:
        raise invalid_field(2)
    if parameters.specify_initiators:
        raise invalid_parameter(20)
    try:
        notices = unit.reservations.change(
            command.service_action,
            task.initiator,
            command.reservation_type,
            parameters.key,
            parameters.action_key,
            persist=bool(parameters.persist),
        )
    except Conflict:
        return RESERVATION_CONFLICT
    for initiator, notice in notices:
        if command.service_action == ReserveOut.PREEMPT_AND_ABORT:
            unit.abort(unit.aborted_by_another, initiator)
        unit.attend(notice, only=initiator)
    unit.update()
    return Result(transferred=len(data))


COMMANDS: Mapping[int, object] = {
    Opcode.TEST_UNIT_READY: test_unit_ready,
    Opcode.INQUIRY: inquiry,
    Opcode.REQUEST_SENSE: request_sense,
    Opcode.MODE_SENSE_6: mode_sense,
    Opcode.MODE_SENSE_10: mode_sense,
    Opcode.MODE_SELECT_6: mode_select,
    Opcode.MODE_SELECT_10: mode_select,
    Opcode.SEND_DIAGNOSTIC: send_diagnostic,
    Opcode.MAINTENANCE_IN: maintenance_in,
    Opcode.RESERVE_6: reserve,
    Opcode.RESERVE_10: reserve,
    Opcode.RELEASE_6: release,
    Opcode.RELEASE_10: release,
    Opcode.PERSISTENT_RESERVE_IN: persistent_reserve_in,
    Opcode.PERSISTENT_RESERVE_OUT: persistent_reserve_out,
}
