"""One channel of a storage controller: takes VSTOR packets, runs their commands, completes each exactly once.

READ (10) and WRITE (10) of a disk with nothing in the way take a short cut: a few fields are unpacked, the blocks
move between the file and the guest's pages, and a completion made beforehand goes out. Everything else goes through
the declared formats.

Nothing that a guest can put into a packet ends the channel: what makes no sense is answered with a status that says
so. A packet that cannot be answered at all (a completion, or one that wants none) is counted and dropped.

Sources: openvmm ``storvsp/src/lib.rs`` (``parse_packet``, ``handle_completion``: answers are as long as their requests,
because Windows checks that); Linux 6.12 ``drivers/scsi/storvsc_drv.c`` (``storvsc_on_io_completion``).
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from vmbus.channel import Channel, ChannelHandler
from vmbus.devices.device import DeviceBus
from vmbus.devices.storage.buffers import cut
from vmbus.devices.storage.media import MAX_TRANSFER, MediaUnit
from vmbus.devices.storage.negotiation import Negotiation
from vmbus.devices.storage.result import Result, backend_failure, illegal_request, vstor_status
from vmbus.devices.storage.task import IN, OUT, Task
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION_REQUESTED, GPA_DIRECT, IN_BAND
from vmbus.wire.schema import WireError
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.sense import AdditionalSense
from vmbus.wire.vstor import (
    MAX_REQUEST,
    SENSE_SIZE,
    FibreChannelNames,
    ScsiRequestV1,
    ScsiResult,
    SrbStatus,
    VstorHeader,
    VstorOperation,
    VstorRequest,
    VstorStatus,
    request_size,
)  # fmt: skip

_EXECUTE = int(VstorOperation.EXECUTE_SRB)
_RESETS = (VstorOperation.RESET_LUN, VstorOperation.RESET_BUS, VstorOperation.RESET_ADAPTER)
_READ_10 = int(Opcode.READ_10)
_WRITE_10 = int(Opcode.WRITE_10)

_ROUTE = struct.Struct("<I13x3s2xBxI")
"""Of a whole request: the operation; path, target and LUN; the direction; the length of the data."""
_TRANSFER = struct.Struct(">BBIxH")
"""Of its command: operation code, flags, first block, number of blocks."""
_CDB_AT = 28
_WHOLE = VstorHeader.SIZE + MAX_REQUEST
_BAD_BUFFER = illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB).result


class ChannelsController(Protocol):
    """What its channels need of a controller (``vmbus.devices.storage.controller``)."""

    name: str
    bus: DeviceBus | None

    @property
    def routes(self) -> dict[bytes, MediaUnit]: ...

    @property
    def names(self) -> FibreChannelNames | None: ...

    @property
    def negotiation(self) -> Negotiation: ...

    @property
    def initiator(self) -> str: ...

    def reroute(self) -> None: ...

    def execute(self, address: tuple[int, int, int], task: Task) -> None: ...

    def reset(self, request: VstorRequest) -> None: ...

    def channel_closed(self, handler: StorageChannel, waiting: list[Task]) -> None: ...


class StorageChannel(ChannelHandler):
    """The handler of the primary channel or of a subchannel."""

    def __init__(self, controller: ChannelsController, channel: Channel) -> None:
        self.controller = controller
        self.channel = channel
        self.is_primary = channel.subchannel_index == 0
        self.requests = 0
        self.refused: Counter[str] = Counter()
        self._waiting: dict[Task, tuple[int, int, float]] = {}
        self._good: dict[int, bytes] = {}

    # Packets

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        self.requests += len(packets)
        units = self.controller.routes
        for packet in packets:
            payload = packet.payload
            if packet.packet_type == GPA_DIRECT and len(payload) == _WHOLE and packet.flags == COMPLETION_REQUESTED:
                operation, address, direction, size = _ROUTE.unpack_from(payload)
                unit = units.get(address)
                if unit is not None and operation == _EXECUTE and unit.is_clear:
                    opcode, flags, lba, blocks = _TRANSFER.unpack_from(payload, _CDB_AT)
                    if (
                        blocks << unit.shift == size
                        and 0 < size <= MAX_TRANSFER
                        and not flags
                        and lba + blocks <= unit.blocks
                    ):
                        if opcode == _READ_10 and direction == IN:
                            if self._read(packet, unit, lba, size):
                                continue
                        elif opcode == _WRITE_10 and direction == OUT and self._write(packet, unit, lba, size):
                            continue
            self._take(packet)

    def _read(self, packet: RingPacket, unit: MediaUnit, lba: int, size: int) -> bool:
        """Read straight into the guest's pages and complete; False to leave all of it to the long way."""
        backend = unit.backend
        if backend is None:
            return False
        try:
            views = self.channel.data_to_guest(packet)
            if views.length != size or not backend.read_at_once(views, lba << unit.shift):
                return False
        except VmbusError:
            return False
        except Exception as error:  # a backend of somebody's own may raise anything
            self._complete(packet.transaction_id, backend_failure(error, writing=False, lba=lba).result, MAX_REQUEST)
            return True
        unit.reads += 1
        unit.bytes_read += size
        self.channel.complete(packet.transaction_id, self._good.get(size) or self._make_good(size))
        return True

    def _write(self, packet: RingPacket, unit: MediaUnit, lba: int, size: int) -> bool:
        """Write straight from the guest's pages and complete; False to leave all of it to the long way."""
        backend = unit.backend
        if backend is None or not backend.quick_writes or backend.read_only:
            return False
        try:
            views = self.channel.data_from_guest(packet)
            if views.length != size:
                return False
            backend.write_from(views, lba << unit.shift)
        except VmbusError:
            return False
        except Exception as error:  # a backend of somebody's own may raise anything
            self._complete(packet.transaction_id, backend_failure(error, writing=True, lba=lba).result, MAX_REQUEST)
            return True
        unit.writes += 1
        unit.bytes_written += size
        self.channel.complete(packet.transaction_id, self._good.get(size) or self._make_good(size))
        return True

    def _make_good(self, size: int) -> bytes:
        """The completion of a transfer of ``size`` bytes that went well."""
        good = self._good[size] = self._completion(Result(transferred=size), MAX_REQUEST)
        return good

    def _take(self, packet: RingPacket) -> None:
        """The long way, for every packet and every mistake in one."""
        if packet.packet_type not in (IN_BAND, GPA_DIRECT) or not packet.wants_completion:
            self.refuse("packet that cannot be answered")
            return
        size = min(len(packet.payload) - VstorHeader.SIZE, MAX_REQUEST)
        if size < 0:
            self.refuse("packet too short for a VSTOR header")
            self._answer(packet.transaction_id, VstorStatus.INVALID_PARAMETER, b"", request_size(0))
            return
        try:
            request = VstorRequest.parse(packet.payload)
        except WireError:  # pragma: no cover - every body has a fixed size and falls back to bytes
            request = VstorRequest(operation=VstorOperation(0), body=b"")
        if request.operation == VstorOperation.EXECUTE_SRB:
            self._execute(packet, request, size)
        elif request.operation in _RESETS and self.controller.negotiation.is_ready:
            self.controller.reset(request)
            self._answer(packet.transaction_id, VstorStatus.SUCCESS, b"", size)
        else:
            status, body = self._operate(request)
            if status != VstorStatus.SUCCESS:
                self.refuse(f"{request.operation} answered with {status}")
            self._answer(packet.transaction_id, status, body, size)

    def _operate(self, request: VstorRequest) -> tuple[VstorStatus, bytes]:
        """Operations that are not about one unit."""
        match request.operation:
            case _ if not request.operation.is_known:
                return VstorStatus.INVALID_DEVICE_REQUEST, b""
            case VstorOperation.FC_HBA_DATA if self.controller.names is not None:
                return VstorStatus.SUCCESS, self.controller.names.build()
            case (
                VstorOperation.FC_HBA_DATA
                | VstorOperation.COMPLETE_IO
                | VstorOperation.REMOVE_DEVICE
                | VstorOperation.ENUMERATE_BUS
                | VstorOperation.EVENT_NOTIFICATION
            ):
                return VstorStatus.INVALID_DEVICE_REQUEST, b""
            case _ if not self.is_primary:
                return VstorStatus.INVALID_DEVICE_STATE, b""
            case _:
                answer = self.controller.negotiation.answer(request.operation, request.body)
                self.controller.reroute()
                return answer

    # Commands

    def _execute(self, packet: RingPacket, request: VstorRequest, size: int) -> None:
        srb = request.body
        if not self.controller.negotiation.is_ready:
            self.refuse("command before the initialization has ended")
            self._answer(packet.transaction_id, VstorStatus.INVALID_DEVICE_STATE, b"", size)
            return
        if not isinstance(srb, ScsiRequestV1):
            self.refuse("packet too short for a SCSI command")
            self._answer(packet.transaction_id, VstorStatus.INVALID_DEVICE_REQUEST, b"", size)
            return
        transaction_id = packet.transaction_id
        try:
            views = self._views(packet, srb)
        except VmbusError as error:
            self.refuse(f"bad page ranges: {type(error).__name__}")
            self._complete(transaction_id, _BAD_BUFFER, size)
            return
        task = Task(srb.cdb, views=views, direction=int(srb.direction), initiator=self.controller.initiator)
        task.finish = lambda result: self._finish(task, transaction_id, result, size)
        self._waiting[task] = (transaction_id, int(srb.path) << 16 | srb.target << 8 | srb.lun, time.monotonic())
        self.controller.execute((srb.path, srb.target, srb.lun), task)

    def _views(self, packet: RingPacket, srb: ScsiRequestV1) -> list[memoryview]:
        """The guest's buffer, exactly ``data_length`` bytes of it; :class:`VmbusError` if it is no such buffer."""
        if not srb.data_length:
            return []
        if srb.data_length > MAX_TRANSFER:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)
        get = self.channel.data_to_guest if srb.direction == IN else self.channel.data_from_guest
        views = get(packet)
        if views.length < srb.data_length:
            raise illegal_request(AdditionalSense.INVALID_FIELD_IN_CDB)
        return cut(views, srb.data_length)

    def _finish(self, task: Task, transaction_id: int, result: Result, size: int) -> None:
        if self._waiting.pop(task, None) is not None:
            self._complete(transaction_id, result, size)

    # Answers

    def _complete(self, transaction_id: int, result: Result, size: int) -> None:
        try:
            self.channel.complete(transaction_id, self._completion(result, size), filled=result.transferred)
        except VmbusError as error:
            self.channel.fail(error)

    def _completion(self, result: Result, size: int) -> bytes:
        head = VstorHeader(operation=VstorOperation.COMPLETE_IO, status=vstor_status(result.srb_status))
        body = ScsiResult(
            scsi_status=result.scsi_status,  # type: ignore[arg-type]
            srb_status=SrbStatus(result.srb_status),
            autosense_valid=int(bool(result.sense)),
            sense=result.sense[:SENSE_SIZE],
            data_length=result.transferred,
            direction=0,  # type: ignore[arg-type]
        )
        return (head.build() + body.build())[: VstorHeader.SIZE + size]

    def _answer(self, transaction_id: int, status: VstorStatus, body: bytes, size: int) -> None:
        """Complete an operation; the answer is as long as the request was."""
        head = VstorHeader(operation=VstorOperation.COMPLETE_IO, status=status)
        try:
            self.channel.complete(transaction_id, head.build() + body[:size].ljust(size, b"\0"))
        except VmbusError as error:
            self.channel.fail(error)

    def notify(self, operation: VstorOperation, version: int) -> None:
        """Send a packet that answers nothing: look at the bus again, or a device is gone."""
        try:
            self.channel.send_in_band(VstorHeader(operation=operation).build() + bytes(request_size(version)))
        except VmbusError as error:
            self.channel.fail(error)

    # What went wrong, and the end

    def refuse(self, what: str) -> None:
        """Count something that the guest should not have done; the first of each kind is noted."""
        if len(self.refused) < 64 or what in self.refused:
            self.refused[what] += 1
            if self.refused[what] == 1 and self.controller.bus is not None:
                self.controller.bus.note(f"{self.controller.name}: {what} (further ones are only counted)")

    def on_close(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self.controller.channel_closed(self, list(waiting))

    def inspect(self) -> dict[str, Any]:
        now = time.monotonic()
        outstanding = [
            {
                "transaction_id": tid,
                "unit": f"{at >> 16}:{at >> 8 & 255}:{at & 255}",
                "opcode": str(Opcode(task.cdb[0])),
                "age_seconds": round(now - since, 3),
            }
            for task, (tid, at, since) in self._waiting.items()
        ]  # fmt: skip
        return {"requests": self.requests, "outstanding": outstanding, "refused": dict(self.refused)}
