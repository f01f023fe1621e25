"""A network card as a test or a demo uses it: ping an address, open a TCP stream, get an address by DHCP.

Under it is the driver, beside it a tiny IPv4 host (``vmbus.inet``). Every method that waits runs the loop while it
does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vmbus.drivers.driver import ChannelOffer, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network.receive import ReceivedFrame
from vmbus.drivers.network.vsc import NetworkDriver
from vmbus.drivers.promise import Promise
from vmbus.inet.connection import TcpConnection
from vmbus.inet.frame import OutgoingFrame
from vmbus.inet.host import InetHost, parse_address
from vmbus.inet.sending import BUFFER_BYTES

_CHUNK = 1 << 16


class NetworkCard:
    """A card that is up, with the IPv4 address ``address``."""

    def __init__(self, bus: DriverBus, driver: NetworkDriver, address: str) -> None:
        self.bus = bus
        self.driver = driver
        self.on_frame: Callable[[bytes], object] | None = None
        """Gets every frame that arrives, before the IPv4 host does."""
        self.host = InetHost(
            bus.loop,
            driver.mac,
            parse_address(address),
            driver.send_frames,
            mtu=driver.mtu,
            largest_segment=max(driver.largest_send - 54, 0),
        )
        driver.on_frames = self._frames
        driver.on_room = self.host.resume
        self._echoes: dict[int, Promise[float]] = {}
        self._next_echo = 1
        self.host.on_echo_reply = self._echo_reply

    @classmethod
    def bring_up(
        cls,
        bus: DriverBus,
        offer: ChannelOffer,
        address: str = "10.7.0.2",
        *,
        driver: NetworkDriver | None = None,
        timeout: float = 30.0,
    ) -> NetworkCard:
        """Attach a driver to an offered card, and wait until frames flow."""
        driver = driver or NetworkDriver()
        driver.attach(bus, offer)
        bus.wait(driver.ready, timeout)
        return cls(bus, driver, address)

    def send(self, frame: bytes) -> bool:
        """Send one Ethernet frame; false if there is no room for it now."""
        return self.driver.send_frames([OutgoingFrame(frame)]) == 1

    def ping(self, address: str, size: int = 56, timeout: float = 30.0) -> float:
        """Send one echo request with ``size`` bytes; return the seconds until its answer came."""
        promise: Promise[float] = Promise()
        sequence = self._next_echo & 0xFFFF
        self._next_echo += 1
        self._echoes[sequence] = promise
        payload = bytes(value & 0xFF for value in range(size))
        self._sent = time.perf_counter()
        self.host.send_echo(parse_address(address), 0x564D, sequence, payload)
        try:
            return self.bus.wait(promise, timeout)
        finally:
            self._echoes.pop(sequence, None)

    def connect(self, address: str, port: int, timeout: float = 30.0) -> TcpStream:
        """Open a TCP connection."""
        return TcpStream(self.bus, self.host.tcp.connect(parse_address(address), port), timeout)

    def _frames(self, frames: Sequence[ReceivedFrame]) -> None:
        if self.on_frame is not None:
            for frame, _ in frames:
                self.on_frame(frame)
        for frame, is_checked in frames:
            self.host.receive(frame, checked=is_checked)
        self.host.flush()

    def _echo_reply(self, source: bytes, identifier: int, sequence: int, payload: bytes) -> None:
        promise = self._echoes.get(sequence)
        if promise is not None:
            promise.resolve(time.perf_counter() - self._sent)


class TcpStream:
    """A TCP connection with calls that wait."""

    def __init__(self, bus: DriverBus, connection: TcpConnection, timeout: float = 30.0) -> None:
        self.connection = connection
        self._bus = bus
        self._changed: Promise[None] = Promise()
        for event in ("on_connected", "on_readable", "on_writable", "on_closed"):
            setattr(connection, event, self._wake)
        self._until(lambda: connection.is_established, timeout)

    def _wake(self, connection: TcpConnection) -> None:
        changed, self._changed = self._changed, Promise()
        changed.resolve(None)

    def _until(self, holds: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            if self.connection.error is not None:
                raise DriverError(f"the TCP connection failed: {self.connection.error}")
            if self.connection.is_over and not self.connection.available:
                raise DriverError("the TCP connection is closed")
            self._bus.wait(self._changed, max(deadline - time.monotonic(), 0.001))

    def send(self, data: bytes | memoryview, timeout: float = 30.0) -> None:
        """Send all of ``data``."""
        left = memoryview(data)
        while left:
            self._until(lambda: self.connection.room > 0, timeout)
            left = left[self.connection.write(left[:_CHUNK]) :]

    def receive(self, most: int = _CHUNK, timeout: float = 30.0) -> bytes:
        """Wait for data and return up to ``most`` bytes of it; empty at the end of the stream."""
        connection = self.connection
        self._until(lambda: connection.available > 0 or connection.at_end, timeout)
        return connection.read(most)

    def exchange(self, data: bytes, timeout: float = 60.0) -> bytes:
        """Send ``data`` and close our half, and return all that comes until the peer closes its half."""
        received = bytearray()
        connection, view, sent = self.connection, memoryview(data), 0
        deadline = time.monotonic() + timeout

        def may_go_on() -> bool:
            return connection.available > 0 or connection.at_end or (sent < len(view) and connection.room > 0)

        while not connection.at_end:
            received += connection.read()
            sent += connection.write(view[sent : sent + BUFFER_BYTES])
            if sent == len(view):
                connection.close()
            self._until(may_go_on, deadline - time.monotonic())
        return bytes(received)

    def close(self) -> None:
        """Close our half."""
        self.connection.close()
