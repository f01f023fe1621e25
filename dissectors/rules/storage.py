"""Rules about storage."""

from __future__ import annotations

from collections.abc import Iterator

from dissectors.engine import Decoded
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.dialects.storage import EXECUTE_SRB, SRB_AT, Storage, operation_of
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import SECOND, Watch
from vmbus.wire.vstor import SrbStatus, VstorOperation

FLOOD = 50
"""Failed requests within a second on one channel."""
_STATUS_AT = SRB_AT + 2


@rule("EX-25", Severity.ERROR, "Look at the host: transaction id 0 is only for packets that the guest did not ask for.")
def completion_with_id_0(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """COMPLETE_IO or FCHBA_DATA with transaction id 0."""
    if not watch.is_packet or not watch.from_host or not isinstance(item.dialect, Storage) or item.transaction_id:
        return
    operation = operation_of(item)
    if operation in (VstorOperation.COMPLETE_IO, VstorOperation.FC_HBA_DATA):
        yield f"{VstorOperation(operation)} on {watch.name(item)} has transaction id 0, which no request has"


@rule(
    "EX-27",
    Severity.WARNING,
    "Look at the disk behind it, and at a guest that repeats what cannot succeed and fills its log.",
)
def error_flood(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """Many failed SCSI requests within a second."""
    status = failed_status(item, watch)
    if status is None:
        return
    start, count = memory.get(item.channel_id, (item.time_ns, 0))
    if item.time_ns - start > SECOND:
        start, count = item.time_ns, 0
    count += 1
    if count >= FLOOD:
        yield f"{count} requests failed within a second on {watch.name(item)}, the last one with {status}"
        start, count = item.time_ns, 0
    memory[item.channel_id] = (start, count)


def failed_status(item: Decoded, watch: Watch) -> SrbStatus | None:
    """The status of a completion of a SCSI command that failed."""
    if not watch.is_packet or item.packet_type != COMPLETION or not isinstance(item.dialect, Storage):
        return None
    if item.request is None or operation_of(item.request) != EXECUTE_SRB:
        return None
    at = item.payload_at + _STATUS_AT
    if len(item.data) <= at:
        return None
    status = SrbStatus(item.data[at] & 0x3F)
    return None if status in (SrbStatus.SUCCESS, SrbStatus.PENDING) else status
