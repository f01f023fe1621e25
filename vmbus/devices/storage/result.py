"""How a SCSI command ends: statuses and sense data, and the one exception by which a command fails.

Which SRB status goes with which SCSI status follows openvmm ``scsidisk/src/lib.rs`` (``process_result``) and what
Linux 6.12 ``drivers/scsi/storvsc_drv.c`` (``storvsc_handle_error``) does with each: without autosense ERROR becomes
DID_ERROR, INVALID_LUN removes the device, and BUSY leaves the SCSI status to the upper layers, which then try again.
"""

from __future__ import annotations

import errno
from functools import lru_cache
from typing import NamedTuple

from vmbus.errors import VmbusError
from vmbus.wire.scsi.sense import AdditionalSense, FixedSense, SenseKey
from vmbus.wire.vstor import ScsiStatus, SrbStatus, VstorStatus


class Result(NamedTuple):
    """What the guest is told."""

    scsi_status: int = 0
    srb_status: int = 1
    sense: bytes = b""
    transferred: int = 0
    """Bytes moved to or from the guest's buffer."""


GOOD = Result()
TASK_SET_FULL = Result(int(ScsiStatus.TASK_SET_FULL), int(SrbStatus.BUSY))
BUSY = Result(int(ScsiStatus.BUSY), int(SrbStatus.BUSY))
RESERVATION_CONFLICT = Result(int(ScsiStatus.RESERVATION_CONFLICT), int(SrbStatus.ERROR))
INVALID_LUN = Result(int(ScsiStatus.CHECK_CONDITION), int(SrbStatus.INVALID_LUN))
ABORTED = Result(0, int(SrbStatus.ABORTED))
BUS_RESET = Result(0, int(SrbStatus.BUS_RESET))


class CheckCondition(VmbusError):
    """A command fails with sense data. Raised by a command, turned into its result by the unit."""

    def __init__(
        self,
        key: SenseKey,
        additional: AdditionalSense,
        *,
        information: int | None = None,
        field: int | None = None,
        in_command: bool = True,
        srb_status: SrbStatus = SrbStatus.ERROR,
    ) -> None:
        """``information`` is the block that failed, ``field`` the byte of the CDB or parameter list that is wrong."""
        super().__init__(f"{key}: {additional}")
        self.key = key
        self.additional = additional
        self.result = Result(
            int(ScsiStatus.CHECK_CONDITION),
            int(srb_status),
            _sense_bytes(key, additional, information, field, in_command),
        )


@lru_cache(maxsize=256)
def _sense_bytes(
    key: SenseKey, additional: AdditionalSense, information: int | None, field: int | None, in_command: bool
) -> bytes:
    fits = information is not None and information < 1 << 32
    return FixedSense(
        key=key,
        additional=additional,
        information_valid=int(fits),
        information=information if fits and information is not None else 0,
        key_specific_valid=int(field is not None),
        in_command=int(field is not None and in_command),
        field_pointer=field or 0,
    ).build()


def illegal_request(additional: AdditionalSense, **details: int | None) -> CheckCondition:
    """An ILLEGAL REQUEST: a command, field or range that the unit does not take."""
    return CheckCondition(SenseKey.ILLEGAL_REQUEST, additional, srb_status=SrbStatus.INVALID_REQUEST, **details)  # type: ignore[arg-type]


def invalid_field(field: int) -> CheckCondition:
    """A byte of the CDB says what the unit does not do."""
    return illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB, field=field)


def invalid_parameter(field: int) -> CheckCondition:
    """A byte of the parameter list says what the unit does not do."""
    return CheckCondition(
        SenseKey.ILLEGAL_REQUEST,
        AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST,
        field=field,
        in_command=False,
        srb_status=SrbStatus.INVALID_REQUEST,
    )


def unit_attention(additional: AdditionalSense) -> CheckCondition:
    """The unit has changed since the initiator last spoke to it."""
    return CheckCondition(SenseKey.UNIT_ATTENTION, additional)


def not_ready(additional: AdditionalSense) -> CheckCondition:
    """The unit has no medium, or is stopped."""
    return CheckCondition(SenseKey.NOT_READY, additional)


def backend_failure(error: Exception, *, writing: bool, lba: int | None = None) -> CheckCondition:
    """What a backend's error means to the guest; Linux makes ENOSPC of 27/07 and EIO of the medium errors.

    Anything but an ``OSError`` is a mistake in the backend, and a HARDWARE ERROR to the guest.
    """
    match getattr(error, "errno", None):
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return CheckCondition(SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED, information=lba)
        case errno.EROFS | errno.EPERM | errno.EACCES:
            return CheckCondition(SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED, information=lba)
        case errno.EIO | errno.ENODATA | errno.EILSEQ if writing:
            return CheckCondition(SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR, information=lba)
        case errno.EIO | errno.ENODATA | errno.EILSEQ:
            return CheckCondition(SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR, information=lba)
        case _:
            return CheckCondition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE, information=lba)


_VSTOR_STATUSES = {
    SrbStatus.SUCCESS: VstorStatus.SUCCESS,
    SrbStatus.BUSY: VstorStatus.DEVICE_BUSY,
    SrbStatus.INVALID_LUN: VstorStatus.DEVICE_DOES_NOT_EXIST,
    SrbStatus.INVALID_TARGET_ID: VstorStatus.DEVICE_DOES_NOT_EXIST,
    SrbStatus.NO_DEVICE: VstorStatus.DEVICE_DOES_NOT_EXIST,
    SrbStatus.NO_HBA: VstorStatus.DEVICE_DOES_NOT_EXIST,
    SrbStatus.COMMAND_TIMEOUT: VstorStatus.IO_TIMEOUT,
    SrbStatus.TIMEOUT: VstorStatus.IO_TIMEOUT,
    SrbStatus.SELECTION_TIMEOUT: VstorStatus.DEVICE_NOT_CONNECTED,
    SrbStatus.BAD_FUNCTION: VstorStatus.INVALID_DEVICE_REQUEST,
    SrbStatus.BAD_SRB_BLOCK_LENGTH: VstorStatus.INVALID_DEVICE_REQUEST,
    SrbStatus.DATA_OVERRUN: VstorStatus.BUFFER_OVERFLOW,
    SrbStatus.REQUEST_FLUSHED: VstorStatus.UNSUCCESSFUL,
    SrbStatus.ABORTED: VstorStatus.CANCELLED,
}


def vstor_status(srb_status: int) -> VstorStatus:
    """The packet's NTSTATUS for an SRB status (openvmm ``convert_srb_status_to_nt_status``)."""
    return _VSTOR_STATUSES.get(SrbStatus(srb_status), VstorStatus.IO_DEVICE_ERROR)
