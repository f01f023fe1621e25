"""The guest end of a synthetic network card (netvsc): frames both ways, subchannels, the end. ``bring_up`` starts it.

Sources: Linux 6.12 ``drivers/net/hyperv/netvsc.c`` and ``rndis_filter.c``; mu_msvm ``MsvmPkg/NetvscDxe/NetvscDxe.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from zlib import crc32

from vmbus.channel import Channel, ChannelHandler
from vmbus.drivers.buffers import SharedBuffer
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network.bring_up import RECEIVE_BUFFER_ID, RING_PAGES, BringUp, Steps
from vmbus.drivers.network.receive import ReceivedFrame, frames_of
from vmbus.drivers.network.requests import NvspRequests, RndisRequests
from vmbus.drivers.network.rings import SendArea
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.inet.frame import OutgoingFrame
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, IN_BAND, TRANSFER_PAGES
from vmbus.ring.ranges import parse_transfer_pages
from vmbus.wire.guids import NETWORK
from vmbus.wire.ndis import (
    NdisStatus,
)
from vmbus.wire.nvsp import (
    ChannelType,
    NvspMessage,
    NvspMessageType,
    NvspRevokeReceiveBuffer,
    NvspRevokeSendBuffer,
    NvspSendIndirectionTable,
    NvspVersion,
    build_message,
)
from vmbus.wire.rndis import (
    HEADER_SIZE,
    RndisHalt,
    RndisIndicateStatus,
    RndisMessageType,
    RndisReceivedMessage,
)
from vmbus.wire.rndis_oid import Oid, PacketFilter
from vmbus.wire.schema import Format

PACKETS_PER_MESSAGE: Final = 8

_PACKET: Final = int(RndisMessageType.PACKET).to_bytes(4, "little")


class GuestQueue(ChannelHandler):
    """The guest end of the primary channel or of a subchannel."""

    def __init__(self, driver: NetworkDriver, channel: Channel) -> None:
        self.driver = driver
        self.channel = channel

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        driver = self.driver
        frames: list[ReceivedFrame] = []
        freed = False
        for packet in packets:
            if packet.packet_type == TRANSFER_PAGES:
                frames += driver.received(self.channel, packet)
                self.channel.complete(packet.transaction_id, driver.completion)
            elif packet.packet_type == COMPLETION:
                freed |= driver.completed(packet)
            elif packet.packet_type == IN_BAND:
                driver.notified(packet)
        if frames:
            driver.frames_in += len(frames)
            driver.on_frames(frames)
        if freed:
            driver.on_room()

    def on_close(self) -> None:
        self.driver.queue_closed(self)


class NetworkDriver(Driver):
    """One card. ``ready`` is settled when frames flow; ``on_frames`` gets what arrives, in lists of copies."""

    interface_ids = (NETWORK,)

    def __init__(
        self,
        *,
        queues: int = 1,
        newest_version: NvspVersion = NvspVersion.V61,
        large_sends: bool = True,
        coalescing: bool = True,
        frame_size: int = 1514,
    ) -> None:
        self.ready: Promise[None] = Promise()
        self.on_frames: Callable[[list[ReceivedFrame]], object] = lambda frames: None
        self.on_room: Callable[[], object] = lambda: None
        self.mac = bytes(6)
        self.mtu = frame_size - 14
        self.link_up = False
        self.version = NvspVersion.V1
        self.largest_send = 0
        """Bytes of the longest frame that the host cuts; 0 when it cuts none."""
        self.completion = b""
        self.frames_in = self.frames_out = 0
        self.queues: list[GuestQueue] = []
        self.send_table: tuple[int, ...] = ()
        self.wanted_queues = queues
        self.newest_version = newest_version
        self.wants_large = large_sends
        self.wants_coalescing = coalescing
        self.frame_size = frame_size
        self._bus: DriverBus | None = None
        self._offer: ChannelOffer | None = None
        self.primary: Channel | None = None
        self.nvsp = NvspRequests()
        self.rndis = RndisRequests()
        self.receive: SharedBuffer | None = None
        self.area: SendArea | None = None
        self._in_flight: dict[int, tuple[bool, int]] = {}
        """What a packet under way occupies, by transaction id: whether a slot, and which slot or section."""
        self._next_transaction = 1 << 32
        self.subchannels = 0
        self.all_open: Promise[None] = Promise()
        self.data_message = b""

    # Bring-up

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        self._bus, self._offer = bus, offer
        self._advance(BringUp(self, bus, offer).steps(), None)

    def _advance(self, steps: Steps, settled: Promise[Any] | None) -> None:
        try:
            promise = steps.send(None) if settled is None else steps.send(settled.result())
        except StopIteration:
            self.ready.resolve(None)
            return
        except VmbusError as error:
            self.ready.reject(error)
            return
        promise.then(lambda done: self._advance(steps, done))

    def subchannel_offered(self, offer: ChannelOffer) -> None:
        if self._bus is not None and offer.subchannel_index <= self.subchannels:
            vp = offer.subchannel_index % self._bus.processors
            self._bus.open(offer, RING_PAGES, RING_PAGES, target_vp=vp).then(self._subchannel_opened)

    def _subchannel_opened(self, opened: Promise[Channel]) -> None:
        with suppress(VmbusError):  # the card may be gone before the host answers
            self.add_queue(opened.result())

    def add_queue(self, channel: Channel) -> None:
        """A channel of the card is open."""
        queue = GuestQueue(self, channel)
        channel.handler = queue
        self.queues.append(queue)
        self.queues.sort(key=lambda one: one.channel.subchannel_index)
        self.check_all_open()

    def check_all_open(self) -> None:
        """Go on with the bring-up when every granted subchannel is open."""
        if self.subchannels and len(self.queues) == self.subchannels + 1:
            self.all_open.resolve(None)

    # Control messages

    def query(self, oid: Oid) -> Promise[bytes]:
        """Ask the card for the value of an OID."""
        return self.rndis.query(oid, self.ask_card)

    def set(self, oid: Oid, value: bytes) -> Promise[None]:
        """Give an OID of the card a value."""
        return self.rndis.set(oid, value, self.ask_card)

    def set_filter(self, filter_: PacketFilter) -> Promise[None]:
        """Say which frames are wanted; none at all stops them."""
        return self.set(Oid.GEN_CURRENT_PACKET_FILTER, int(filter_).to_bytes(4, "little"))

    def ask_card(self, make: Callable[[int], tuple[RndisMessageType, Format]]) -> Promise[Format]:
        """Send a control message; the promise is of its completion."""
        promise, message = self.rndis.request(make)
        self._send_control(message)
        return promise

    def _send_control(self, message: bytes) -> None:
        area, channel = self.area, self.primary
        if area is None or channel is None or not area.free_sections:
            raise DriverError("the card is not up, or all of its send sections are in use")
        section = area.free_sections.pop()
        area.put_message(section, message)
        packet = self.nvsp.packet(ChannelType.CONTROL, section, len(message))
        nvsp = build_message(NvspMessageType.SEND_RNDIS_PACKET, packet, self.version)
        self._send_section(channel, section, len(message), nvsp)

    def _send_section(self, channel: Channel, section: int, size: int, message: bytes) -> None:
        transaction = self._occupy(False, section)
        if channel.is_recorded and self.area is not None:
            channel.data_out_of_buffer(transaction, self.area.messages(section, size))
        channel.send_in_band(message, transaction_id=transaction, completion_requested=True)

    def _occupy(self, is_slot: bool, index: int) -> int:
        transaction = self._next_transaction
        self._next_transaction += 1
        self._in_flight[transaction] = (is_slot, index)
        return transaction

    # Frames

    def send_frames(self, frames: Sequence[OutgoingFrame]) -> int:
        """Send as many of the frames as there is room for, several to a section; return how many."""
        area = self.area
        if area is None or not self.queues:
            return len(frames)
        sent = 0
        while sent < len(frames):
            channel = self._channel_of(frames[sent].frame)
            if frames[sent].segment_size:
                if not area.free_slots:
                    break
                slot = area.free_slots.pop()
                self._send_large(channel, slot, area.put_large(slot, frames[sent]))
                sent += 1
                continue
            if len(area.free_sections) <= 1:  # the last one is for control messages
                break
            section = area.free_sections.pop()
            count, size = area.put_frames(section, frames, sent, PACKETS_PER_MESSAGE if len(self.queues) == 1 else 1)
            if not count:
                area.free_sections.append(section)
                raise DriverError(f"a frame of {len(frames[sent].frame)} bytes is longer than a section")
            message = self.data_message
            message = message[:8] + section.to_bytes(4, "little") + size.to_bytes(4, "little") + message[16:]
            self._send_section(channel, section, size, message)
            sent += count
        self.frames_out += sent
        return sent

    def _send_large(self, channel: Channel, slot: int, ranges: list[GpaRange]) -> None:
        message = self.data_message
        message = message[:8] + b"\xff\xff\xff\xff\0\0\0\0" + message[16:]
        transaction = self._occupy(True, slot)
        if channel.is_recorded and self.area is not None:
            channel.data_out_of_buffer(transaction, [self.area.slot(slot, ranges[0].byte_count)])
        channel.send_gpa_direct(ranges, message, transaction_id=transaction)

    def _channel_of(self, frame: bytes) -> Channel:
        queues = self.queues
        if len(queues) == 1 or len(frame) < 38:
            return queues[0].channel
        hashed = crc32(frame[26:38])
        index = self.send_table[hashed % len(self.send_table)] if self.send_table else hashed % len(queues)
        return queues[index if index < len(queues) else 0].channel

    def received(self, channel: Channel, packet: RingPacket) -> list[ReceivedFrame]:
        """The frames of a transfer-page packet; control messages among them are acted on."""
        receive = self.receive
        if receive is None:
            raise DriverError("the host sent a packet before it had a receive buffer")
        pages = parse_transfer_pages(packet.extension, len(receive.view))
        if pages.set_id != RECEIVE_BUFFER_ID:
            raise DriverError(f"the host sent a packet in transfer page set {pages.set_id:#x}")
        messages = [bytes(receive.view[offset : offset + length]) for length, offset in pages.ranges]
        if channel.is_recorded:
            channel.data_in_buffer(packet, [memoryview(message) for message in messages])
        packets = [message for message in messages if message[:4] == _PACKET]
        if len(packets) < len(messages):
            for message in messages:
                if message[:4] != _PACKET:
                    self._control_arrived(message)
        return frames_of(packets)

    def _control_arrived(self, message: bytes) -> None:
        if len(message) < HEADER_SIZE:
            raise DriverError(f"the host sent an RNDIS message of {len(message)} bytes")
        body = RndisReceivedMessage.parse(message).body
        if isinstance(body, RndisIndicateStatus):
            if body.status in (NdisStatus.MEDIA_CONNECT, NdisStatus.MEDIA_DISCONNECT):
                self.link_up = body.status == NdisStatus.MEDIA_CONNECT
        elif isinstance(body, Format):
            self.rndis.answered(body)

    def completed(self, packet: RingPacket) -> bool:
        """A packet of ours is completed; return whether that made room to send."""
        occupied = self._in_flight.pop(packet.transaction_id, None)
        if occupied is None:
            self.nvsp.answered(packet)
            return False
        is_slot, index = occupied
        assert self.area is not None
        (self.area.free_slots if is_slot else self.area.free_sections).append(index)
        return True

    def notified(self, packet: RingPacket) -> None:
        """An in-band message of the host's own."""
        body = NvspMessage.parse(packet.payload).body
        if isinstance(body, NvspSendIndirectionTable) and body.table:
            self.send_table = body.table

    # The end

    def shut_down(self) -> None:
        """Halt the card and take the buffers back, as Linux does before it closes the channel."""
        channel = self.primary
        if channel is None or self.area is None or self._bus is None:
            return
        _, message = self.rndis.request(lambda request: (RndisMessageType.HALT, RndisHalt(request_id=request)))
        self._send_control(message)
        revoke = NvspRevokeReceiveBuffer(id=RECEIVE_BUFFER_ID)
        self.nvsp.tell(channel, NvspMessageType.REVOKE_RECEIVE_BUFFER, revoke, self.version)
        self.nvsp.tell(channel, NvspMessageType.REVOKE_SEND_BUFFER, NvspRevokeSendBuffer(id=0), self.version)
        channel.flush()
        self._bus.close(channel)
        self.detach()

    def queue_closed(self, queue: GuestQueue) -> None:
        """A channel of ours is gone."""
        if queue in self.queues:
            self.queues.remove(queue)
        self.ready.reject(DriverError("the card's channel was closed"))

    def detach(self) -> None:
        """The offer was rescinded, or the connection ended."""
        error = DriverError("the network card is gone")
        self.ready.reject(error)
        self.nvsp.fail(error)
        self.rndis.fail(error)
        self.queues.clear()
        self._in_flight.clear()
        if self.area is not None:
            self.area.free()
            self.area = None
        if self.receive is not None:
            self.receive.free()
            self.receive = None

    def inspect(self) -> dict[str, Any]:
        return {
            "mac": self.mac.hex(":"),
            "mtu": self.mtu,
            "link_up": self.link_up,
            "nvsp_version": self.version.name,
            "queues": len(self.queues),
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "in_flight": len(self._in_flight),
        }
