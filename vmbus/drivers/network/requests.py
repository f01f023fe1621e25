"""What a guest driver has asked and not been answered: NVSP by transaction id, RNDIS by request id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmbus.channel import Channel
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.wire.ndis import NdisStatus
from vmbus.wire.nvsp import ChannelType, NvspCompletion, NvspMessageType, NvspSendRndisPacket, build_message
from vmbus.wire.rndis import RndisMessageType, RndisQuery, RndisQueryComplete, RndisSet, RndisSetComplete
from vmbus.wire.rndis import build_message as build_rndis
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.schema import Format, WireError

Make = Callable[[int], tuple[RndisMessageType, Format]]
"""Makes a control message for a request id."""

Ask = Callable[[Make], Promise[Format]]


class NvspRequests:
    """NVSP requests under way."""

    def __init__(self) -> None:
        self._waiting: dict[int, Promise[Format]] = {}
        self._next = 1

    def ask(self, channel: Channel, kind: NvspMessageType, body: Format, version: int) -> Promise[Format]:
        """Send a request; the promise is of the completion's body."""
        promise: Promise[Format] = Promise()
        transaction, self._next = self._next, self._next + 1
        self._waiting[transaction] = promise
        message = build_message(kind, body, version)
        channel.send_in_band(message, transaction_id=transaction, completion_requested=True)
        return promise

    def tell(self, channel: Channel, kind: NvspMessageType, body: Format, version: int) -> None:
        """Send a message that is not answered."""
        channel.send_in_band(build_message(kind, body, version))

    def packet(self, channel_type: ChannelType, section: int, size: int) -> NvspSendRndisPacket:
        """The body of an RNDIS packet from a section."""
        return NvspSendRndisPacket(
            channel_type=channel_type, send_buffer_section_index=section, send_buffer_section_size=size
        )

    def answered(self, packet: RingPacket) -> None:
        """A completion that belongs to no frame."""
        promise = self._waiting.pop(packet.transaction_id, None)
        if promise is None:
            raise DriverError(f"the host completed transaction {packet.transaction_id:#x}, which is not under way")
        try:
            body = NvspCompletion.parse(packet.payload).body
        except WireError as error:
            promise.reject(error)
            return
        if isinstance(body, Format):
            promise.resolve(body)
        else:
            promise.reject(
                DriverError(f"the host completed a request with {len(packet.payload)} bytes that say nothing")
            )

    def fail(self, error: VmbusError) -> None:
        """Nothing will be answered any more."""
        for promise in self._waiting.values():
            promise.reject(error)
        self._waiting.clear()


class RndisRequests:
    """RNDIS requests under way."""

    def __init__(self) -> None:
        self._waiting: dict[int, Promise[Format]] = {}
        self._next = 1

    def request(self, make: Make) -> tuple[Promise[Format], bytes]:
        """A new request, and its message to send."""
        promise: Promise[Format] = Promise()
        number, self._next = self._next, self._next + 1
        self._waiting[number] = promise
        kind, body = make(number)
        return promise, build_rndis(kind, body)

    def answered(self, body: Any) -> None:
        """A completion arrived; one that nobody waits for is ignored."""
        promise = self._waiting.pop(getattr(body, "request_id", -1), None)
        if promise is not None:
            promise.resolve(body)

    def query(self, oid: Oid, ask: Ask) -> Promise[bytes]:
        """Ask for the value of an OID."""
        value: Promise[bytes] = Promise()

        def settle(done: Promise[Format]) -> None:
            try:
                complete = done.result()
            except VmbusError as error:
                value.reject(error)
                return
            if isinstance(complete, RndisQueryComplete) and complete.status == NdisStatus.SUCCESS:
                value.resolve(complete.information)
            else:
                value.reject(DriverError(f"the host does not answer the query of {oid}"))

        ask(lambda request: (RndisMessageType.QUERY, RndisQuery(request_id=request, oid=oid))).then(settle)
        return value

    def set(self, oid: Oid, data: bytes, ask: Ask) -> Promise[None]:
        """Give an OID a value."""
        done_with: Promise[None] = Promise()

        def settle(done: Promise[Format]) -> None:
            try:
                complete = done.result()
            except VmbusError as error:
                done_with.reject(error)
                return
            if isinstance(complete, RndisSetComplete) and complete.status == NdisStatus.SUCCESS:
                done_with.resolve(None)
            else:
                done_with.reject(DriverError(f"the host refuses to set {oid}"))

        ask(lambda request: (RndisMessageType.SET, _set_request(request, oid, data))).then(settle)
        return done_with

    def fail(self, error: VmbusError) -> None:
        """Nothing will be answered any more."""
        for promise in self._waiting.values():
            promise.reject(error)
        self._waiting.clear()


def _set_request(request: int, oid: Oid, data: bytes) -> RndisSet:
    return RndisSet(request_id=request, oid=oid, information_buffer_length=len(data), information=data)
