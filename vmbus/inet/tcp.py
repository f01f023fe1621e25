"""TCP, small: connections of one :class:`~vmbus.inet.host.InetHost`, with window scaling, retransmission, half-close.

Segments that come out of order are dropped and asked for again; lost ones are sent again from the oldest on, after
three duplicate acknowledgements or a timeout. There is no congestion control: both ends are on one machine. Sequence
numbers are kept modulo 2**32 (RFC 9293).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from vmbus.inet.checksum import checksum, pseudo_header, word_sum
from vmbus.inet.connection import TcpConnection
from vmbus.inet.frame import OutgoingFrame
from vmbus.inet.sending import SendingConnection, State
from vmbus.wire.inet import IpProtocol, TcpFlags

if TYPE_CHECKING:
    from vmbus.inet.host import InetHost

Key = tuple[bytes, int, int]
"""The peer's address, the peer's port, our port."""

_TCP: Final = Struct(">HHIIBBHHH")  # wire.inet.Tcp
_SYN, _RST, _ACK = int(TcpFlags.SYN), int(TcpFlags.RST), int(TcpFlags.ACK)

TICK_SECONDS: Final = 0.1
MOST_CONNECTIONS: Final = 4096
FRAMES_PER_TURN: Final = 64
"""Frames that connections produce before they are sent: more of them at once leave the processor's cache."""


class TcpStack:
    """The connections of one host, and who listens."""

    def __init__(self, host: InetHost) -> None:
        self.host = host
        self.connections: dict[Key, TcpConnection] = {}
        self._listeners: dict[int, Callable[[TcpConnection], object]] = {}
        self._active: dict[SendingConnection, None] = {}
        self._next_port = 49152
        self._ticking = False

    def listen(self, port: int, accept: Callable[[TcpConnection], object]) -> None:
        """Accept connections to ``port``; ``accept`` gets each of them once it is established."""
        self._listeners[port] = accept

    def connect(self, address: bytes, port: int) -> TcpConnection:
        """Start a connection; look at its events for what becomes of it."""
        for _ in range(16384):
            self._next_port = 49152 + (self._next_port - 49151) % 16384
            if (address, port, self._next_port) not in self.connections:
                break
        connection = TcpConnection(self, address, port, self._next_port, State.SYN_SENT)
        self.connections[connection.key] = connection
        connection.start()
        return connection

    # What connections call

    def activate(self, connection: SendingConnection) -> None:
        """The connection has something to send."""
        self._active[connection] = None
        self.host.flush_soon()

    def forget(self, connection: TcpConnection) -> None:
        """The connection is over."""
        self.connections.pop(connection.key, None)
        self._active.pop(connection, None)

    # What the host calls

    def on_neighbour(self, address: bytes) -> None:
        """The Ethernet address of a neighbour became known."""
        for connection in self.connections.values():
            if connection.key[0] == address and not connection.is_established:
                self.activate(connection)

    def receive(self, source: bytes, frame: bytes, start: int, end: int, checked: bool) -> None:
        """Take one segment: ``frame[start:end]``."""
        if end - start < _TCP.size:
            self.host.ignored += 1
            return
        their_port, our_port, sequence, acknowledgement, words, flags, window, _, _ = _TCP.unpack_from(frame, start)
        data_at = start + (words >> 4) * 4
        if not start + _TCP.size <= data_at <= end:
            self.host.ignored += 1
            return
        if not checked:
            total = pseudo_header(source, self.host.address, IpProtocol.TCP, end - start) + word_sum(frame[start:end])
            if total % 65535:
                self.host.ignored += 1
                return
        connection = self.connections.get((source, their_port, our_port))
        if connection is None:
            connection = self._accept(source, their_port, our_port, flags)
            if connection is None:
                if not flags & _RST:
                    self._refuse(source, their_port, our_port, sequence, acknowledgement, flags, end - data_at)
                return
        options = frame[start + _TCP.size : data_at] if flags & _SYN else b""
        connection.segment(sequence, acknowledgement, flags, window, options, frame[data_at:end])

    def _accept(self, source: bytes, their_port: int, our_port: int, flags: int) -> TcpConnection | None:
        accept = self._listeners.get(our_port)
        if accept is None or flags & (_SYN | _ACK | _RST) != _SYN or len(self.connections) >= MOST_CONNECTIONS:
            return None
        connection = TcpConnection(self, source, their_port, our_port, State.SYN_RECEIVED)
        connection.accept = accept
        self.connections[connection.key] = connection
        return connection

    def _refuse(
        self, source: bytes, their_port: int, our_port: int, sequence: int, acknowledgement: int, flags: int, size: int
    ) -> None:
        length = size + (1 if flags & _SYN else 0) + (flags & 1)
        ours, reply = (acknowledgement, _RST) if flags & _ACK else (0, _RST | _ACK)
        answer = _TCP.pack(our_port, their_port, ours, (sequence + length) & 0xFFFFFFFF, 0x50, reply, 0, 0, 0)
        total = pseudo_header(self.host.address, source, IpProtocol.TCP, len(answer)) + word_sum(answer)
        answer = answer[:16] + checksum(total).to_bytes(2, "big") + answer[18:]
        self.host.send_ipv4(source, IpProtocol.TCP, answer)

    def produce(self, out: deque[OutgoingFrame]) -> None:
        """Let active connections put segments into ``out``, each in its turn."""
        active = self._active
        while active and len(out) < FRAMES_PER_TURN:
            connection = next(iter(active))
            del active[connection]
            if connection.produce(out, FRAMES_PER_TURN - len(out)):
                active[connection] = None  # it has more: it goes to the end of the queue
            if connection.needs_timer and not self._ticking:
                self._ticking = True
                self.host.loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = time.monotonic()
        waiting = [connection for connection in self.connections.values() if connection.needs_timer]
        for connection in waiting:
            connection.tick(now)
        if waiting:
            self._ticking = True
            self.host.loop.call_later(TICK_SECONDS, self._tick)

    def abandon(self) -> None:
        """End every connection without a word to its peer."""
        for connection in list(self.connections.values()):
            connection.end("the network is gone")
