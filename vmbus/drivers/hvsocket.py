"""Hyper-V sockets at the guest's end: connect to a port of the host, listen at a port of one's own.

:class:`GuestSockets` is the guest's AF_VSOCK: hand ``sockets.driver`` to the guest with its other drivers, then
``connect`` and ``listen``. Each stream is a channel of its own, with pipe headers and half-close.

Sources: Linux 6.12 ``net/vmw_vsock/hyperv_transport.c``; openvmm ``vmbus_client/src/hvsock.rs``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeVar, cast
from uuid import UUID

from vmbus.channel import Channel, ChannelHandler
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.ring import RingPacket
from vmbus.ring.packet import IN_BAND
from vmbus.ring.pipe import MAX_PIPE_PAYLOAD, frame, unframe
from vmbus.wire.hvsocket import port_of_service, service_of_port
from vmbus.wire.offer import HvsockUserDefined

T = TypeVar("T")

FIRST_EPHEMERAL_PORT = 0x8000_0000


class GuestStream(ChannelHandler):
    """One connected socket.  ``received`` grows as data comes; ``ended`` says that no more will."""

    def __init__(self, bus: DriverBus, channel: Channel) -> None:
        self.received = bytearray()
        self.ended = False
        self.closed = False
        """The channel is gone."""
        self.channel = channel
        self._bus = bus
        self._to_send: deque[memoryview] = deque()
        self._is_shut = self._end_is_sent = False
        self._piece = min(MAX_PIPE_PAYLOAD, channel.outgoing.memory.size // 4 - 64)

    def send(self, data: bytes) -> None:
        """Send all of it, as soon as there is room."""
        if self._is_shut:
            raise DriverError("this direction of the socket has been shut down")
        view = memoryview(data)
        self._to_send.extend(view[start : start + self._piece] for start in range(0, len(view), self._piece))
        self._pump()

    def shutdown(self) -> None:
        """Say that nothing more comes, after what was sent."""
        self._is_shut = True
        self._pump()

    def close(self) -> None:
        """Let go of the channel at once."""
        if not self.closed:
            self._bus.close(self.channel)

    def _pump(self) -> None:
        channel = self.channel
        while channel.is_open and self._to_send and not channel.backlog:
            channel.send(IN_BAND, bytes(frame(self._to_send.popleft())[4]))
            channel.flush()
        if self._is_shut and not self._to_send and not self._end_is_sent and channel.is_open:
            self._end_is_sent = True
            channel.send(IN_BAND, bytes(frame(b"")[4]))

    @property
    def unsent(self) -> int:
        """Bytes that wait for room in the ring."""
        return sum(map(len, self._to_send))

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            data = unframe(packet)
            self.ended = self.ended or not data
            self.received += data

    def on_writable(self) -> None:
        self._pump()

    def on_close(self) -> None:
        self.closed = self.ended = True


class _SocketDriver(Driver):
    """Attached to each offered socket: opens what the guest asked for, and what it listens for."""

    interface_ids = ()
    sockets: ClassVar[GuestSockets]

    @classmethod
    def probe(cls, offer: ChannelOffer) -> bool:
        return port_of_service(offer.interface_id) is not None and offer.subchannel_index == 0

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        self.stream: Promise[GuestStream] = Promise()
        self.on_open: Callable[[GuestStream], object] = lambda stream: None
        self._bus = bus
        self.sockets.offered(self, offer)

    def open(self, offer: ChannelOffer) -> None:
        """Take the connection."""
        self._bus.open(offer, 8, 8).then(self._opened)

    def _opened(self, opened: Promise[Channel]) -> None:
        try:
            channel = opened.result()
        except VmbusError as error:
            self.stream.reject(error)
            return
        stream = GuestStream(self._bus, channel)
        channel.handler = stream
        self.stream.resolve(stream)
        self.on_open(stream)

    def detach(self) -> None:
        self.stream.reject(DriverError("the host took the socket back"))


class SocketBus(Protocol):
    """What a guest's runtime gives its sockets, beside what it gives every driver."""

    def connect_socket(self, service_id: UUID, endpoint_id: UUID) -> Promise[int]:
        """Ask the host for a socket; its channel is offered with these ids, and the promise is of the channel's id."""
        ...

    def wait(self, promise: Promise[T], timeout: float = 30.0) -> T: ...


class GuestSockets:
    """The sockets of one guest.  ``accepted`` holds the streams of each port that is listened at, as they come."""

    def __init__(self) -> None:
        self.driver = cast("type[Driver]", type("SocketDriver", (_SocketDriver,), {"sockets": self}))
        self.accepted: dict[int, deque[GuestStream]] = {}
        self._connecting: dict[UUID, _SocketDriver] = {}
        self._next_port = FIRST_EPHEMERAL_PORT

    def listen(self, port: int) -> None:
        """Accept connections of the host to this port."""
        self.accepted[port] = deque()

    def connect(self, bus: SocketBus, port: int, timeout: float = 30.0) -> GuestStream:
        """Connect to a port of the host.  Raises ``DriverError`` when it is refused, or not answered in time."""
        self._next_port += 1
        endpoint = service_of_port(self._next_port)
        bus.wait(bus.connect_socket(service_of_port(port), endpoint), timeout)
        return bus.wait(self._connecting.pop(endpoint).stream, timeout)

    def offered(self, driver: _SocketDriver, offer: ChannelOffer) -> None:
        """A socket's channel is there; one to a port that nobody listens at is left alone, as Linux does."""
        if not HvsockUserDefined.parse(offer.user_defined).is_for_guest_accept:
            self._connecting[offer.instance_id] = driver
            driver.open(offer)
            return
        port = port_of_service(offer.interface_id)
        accepted = self.accepted.get(port) if port is not None else None
        if accepted is not None:
            driver.on_open = accepted.append
            driver.open(offer)
