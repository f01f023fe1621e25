"""Live channels as scapy sockets: ``sniff``, ``sr1``, answering machines and automata on VMBus.

A :class:`ChannelSocket` is either end of an open channel whose loop runs in a thread of its own; a :class:`GuestSocket`
is a small guest that connects to a host, opens one device's channel, and speaks on it::

    sock = GuestSocket("unix:/tmp/host.sock", "scsi")
    answer = sock.sr1(PacketDescriptor(transaction_id=1, flags="COMPLETION_REQUESTED") / request)

What is sent without a ``PacketDescriptor`` goes in band.  Model: ``scapy/contrib/cansocket_python_can.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from scapy.automaton import ObjectPipe
from scapy.packet import Packet
from scapy.supersocket import SuperSocket

from dissectors.engine import Session
from dissectors.layers.vmbus import PacketDescriptor, PacketRecord, stack_layers
from vmbus.channel import Channel, ChannelHandler
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.guest import Guest
from vmbus.loop import LoopThread
from vmbus.ring.packet import RingPacket
from vmbus.transport import connect, parse_address
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.capture import PacketRecord as PacketRecordFormat
from vmbus.wire.protocols import ABBREVIATIONS, PROTOCOLS, protocol_of
from vmbus.wire.ring import PacketDescriptor as Descriptor
from vmbus.wire.ring import PacketFlags, PacketType

MTU = 0xFFFF


class _Receiver(ChannelHandler):
    """Hands what comes out of the ring to the thread that reads the socket."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            start = Descriptor.SIZE + len(packet.extension)
            head = Descriptor(
                packet_type=PacketType(packet.packet_type),
                data_offset8=start // 8,
                length8=(start + len(packet.payload)) // 8,
                flags=PacketFlags(packet.flags),
                transaction_id=packet.transaction_id,
            )
            self._pipe.send(head.build() + packet.extension + packet.payload)


class ChannelSocket(SuperSocket):  # type: ignore[misc]
    """One end of an open channel.  Its packets are ``PacketDescriptor`` and what follows, as the device speaks."""

    desc = "read and write VMBus packets on an open channel"
    closed: bool = False

    def __init__(self, channel: Channel, thread: LoopThread, sends: Direction = Direction.GUEST_TO_HOST) -> None:
        """``thread`` runs the channel's loop; ``sends`` is the direction of what this end sends."""
        self.channel = channel
        self._thread = thread
        self._sends = sends
        protocol = protocol_of(channel.interface_id, channel.instance_id)
        self._session = Session({channel.channel_id: protocol} if protocol is not None else None)
        self.ins = self.outs = ObjectPipe(f"channel {channel.channel_id}")
        self.basecls = PacketDescriptor
        thread.call(lambda: setattr(channel, "handler", _Receiver(self.ins)))

    def send(self, x: Any) -> int:
        """Put a packet into the ring; returns the bytes of descriptor, extension and payload."""
        if not isinstance(x, PacketDescriptor):
            x = PacketDescriptor() / x
        data = bytes(x)
        x.sent_time = time.time()
        head = Descriptor.parse(data)
        start = min(max(head.data_offset8 * 8, Descriptor.SIZE), len(data))
        self._feed(data, self._sends)
        self._thread.call(
            lambda: self.channel.send(
                int(head.packet_type),
                data[start:],
                transaction_id=head.transaction_id,
                extension=data[Descriptor.SIZE : start],
                completion_requested=bool(head.flags & PacketFlags.COMPLETION_REQUESTED),
            )
        )
        return len(data)

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes | None, float | None]:
        """The bytes of the next packet."""
        return PacketDescriptor, self.ins.recv(), time.time()

    def recv(self, x: int = MTU, **kwargs: Any) -> Packet | None:
        """The next packet, decoded in the context of those before it."""
        _, data, stamp = self.recv_raw(x)
        if data is None:
            return None
        other = Direction.HOST_TO_GUEST if self._sends is Direction.GUEST_TO_HOST else Direction.GUEST_TO_HOST
        packet = self._feed(data, other)
        packet.time = stamp
        return packet

    def _feed(self, data: bytes, direction: Direction) -> Any:
        """Let the session know a packet; returns it as scapy's layers."""
        head = PacketRecordFormat(kind=RecordKind.PACKET, direction=direction, channel_id=self.channel.channel_id)
        item = self._session.feed_bytes(head.build() + data, time.time_ns())
        record = PacketRecord(direction_=int(direction), channel_id=self.channel.channel_id)
        stack_layers(record, item)
        return record.payload

    def close(self) -> None:
        """Stop reading; the channel stays open."""
        if not self.closed:
            self.closed = True
            self.ins.close()


class GuestSocket(ChannelSocket):
    """A guest that uses one device of a host: connects, opens the device's channel, and unloads when it is closed."""

    def __init__(self, address: str, device: str | UUID, *, ring_pages: int = 16, user_data: bytes = b"") -> None:
        """``device`` is a protocol's abbreviation (``scsi``, ``net``, ``kvp`` ...) or an interface id."""
        interface = device if isinstance(device, UUID) else _interface(device)

        class OneDevice(Driver):
            """Opens the first offered channel of the wanted interface."""

            interface_ids = (interface,)
            opened: Promise[Channel]

            def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
                self.opened = bus.open(offer, ring_pages, ring_pages, user_data)

            def detach(self) -> None:
                pass

        self.guest = Guest(connect(parse_address(address)), drivers=(OneDevice,))
        try:
            self.guest.boot()
            channel = self.guest.bus.wait(self.guest.driver(OneDevice).opened)
        except BaseException:
            self.guest.close()
            raise
        self._runner = LoopThread(self.guest.loop, "scapy guest")
        self._runner.start()
        super().__init__(channel, self._runner)

    def close(self) -> None:
        """Unload and end the guest."""
        if self.closed:
            return
        super().close()
        self._runner.stop()
        self.guest.unload()
        self.guest.close()


def _interface(name: str) -> UUID:
    protocol = ABBREVIATIONS.get(name)
    found = [interface for interface, known in PROTOCOLS.items() if known is protocol]
    if not found:
        raise DriverError(f"no device is called {name}; known are {', '.join(sorted(ABBREVIATIONS))}")
    return found[0]
