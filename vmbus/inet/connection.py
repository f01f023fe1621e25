"""One TCP connection: the handshake, what is received, and the end; ``sending.py`` has what is sent.

A user writes with :meth:`TcpConnection.write` (as much as there is room for), reads what has arrived with
:meth:`TcpConnection.read`, and closes its half with :meth:`TcpConnection.close`. What is not read keeps the window
small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmbus.inet.sending import (
    ACK,
    BUFFER_BYTES,
    FIN,
    HALF,
    MODULO,
    RST,
    SYN,
    WINDOW_SCALE,
    SendingConnection,
    State,
    nothing,
)

if TYPE_CHECKING:
    from vmbus.inet.tcp import TcpStack


class TcpConnection(SendingConnection):
    """A connection. ``on_connected``, ``on_readable``, ``on_writable`` and ``on_closed`` are called with it."""

    def __init__(self, stack: TcpStack, address: bytes, port: int, local_port: int, state: State) -> None:
        super().__init__(stack, address, port, local_port, state)
        self.error: str | None = None
        self.accept: Callable[[TcpConnection], object] = nothing
        self.on_connected: Callable[[TcpConnection], object] = nothing
        self.on_readable: Callable[[TcpConnection], object] = nothing
        self.on_writable: Callable[[TcpConnection], object] = nothing
        self.on_closed: Callable[[TcpConnection], object] = nothing
        self._received = bytearray()
        self._promised = 0
        """The end of the window that the peer knows of."""
        self._end_of_stream = False

    # What a user calls

    @property
    def is_established(self) -> bool:
        return self.state is State.ESTABLISHED

    @property
    def available(self) -> int:
        """Bytes that can be read."""
        return len(self._received)

    @property
    def at_end(self) -> bool:
        """Whether everything was read and the peer sends no more."""
        return not self._received and (self._end_of_stream or self.is_over)

    def read(self, most: int = BUFFER_BYTES) -> bytes:
        """Take up to ``most`` received bytes."""
        data = bytes(self._received[:most])
        self.skip(len(data))
        return data

    def skip(self, count: int) -> None:
        """Drop received bytes without looking at them."""
        del self._received[:count]
        grown = (self._expected + BUFFER_BYTES - len(self._received) - self._promised) % MODULO
        if self.is_established and BUFFER_BYTES // 2 <= grown < HALF:
            self._ack_is_due = True
            self.stack.activate(self)

    def abort(self) -> None:
        """Break the connection off."""
        if not self.is_over:
            self._emit_at_once(self._next, RST | ACK)
            self.end("broken off by this end")

    def end(self, error: str | None = None) -> None:
        """It is over; ``error`` says why if it did not end as it should."""
        if self.is_over:
            return
        self.state = State.CLOSED
        self.error = error
        self._send_buffer.clear()
        self.stack.forget(self)
        self.on_closed(self)

    # What the stack calls

    def start(self) -> None:
        """Send the SYN of a connection that we make."""
        host = self.stack.host
        if self.key[0] not in host.neighbours:
            host.ask_for(self.key[0])
        self.stack.activate(self)

    def segment(
        self, sequence: int, acknowledgement: int, flags: int, window: int, options: bytes, payload: bytes
    ) -> None:
        """A segment arrived."""
        if self.state is not State.ESTABLISHED and not self._handshake(
            sequence, acknowledgement, flags, window, options
        ):
            return
        if flags & RST:
            if sequence == self._expected:
                self.end("reset by the peer")
            return
        if flags & SYN:
            self._ask_again()  # its handshake's last acknowledgement was lost
            return
        ahead = (sequence - self._expected) % MODULO
        if ahead:
            if ahead < HALF:
                self._ask_again()
                return
            known = MODULO - ahead
            if known >= len(payload) + (flags & FIN) and (payload or flags & FIN):
                self._ask_again()
                payload, flags = b"", flags & ~FIN
            else:
                payload = payload[known:]
        if flags & ACK:
            self._acknowledged(acknowledgement, window << self._peer_scale, bool(payload))
            if self._end_of_stream and self._fin_is_acknowledged:
                self.end()
            if self.is_over:
                return
        if payload or flags & FIN:
            self._take(payload, flags)

    def _handshake(self, sequence: int, acknowledgement: int, flags: int, window: int, options: bytes) -> bool:
        """Handle a segment before the connection stands; return whether there may be data in it."""
        if self.state is State.SYN_RECEIVED and flags & (SYN | RST) == SYN and not flags & ACK:
            self._expected = (sequence + 1) % MODULO
            self._read_options(options)
            self._peer_window = window
            self._next = self._oldest
            self._syn_is_due = True
            self.stack.activate(self)
            return False
        if flags & RST:
            if self.state is State.SYN_RECEIVED or acknowledgement == (self._oldest + 1) % MODULO:
                self.end("refused by the peer")
            return False
        if not flags & ACK:
            return False
        if acknowledgement != (self._oldest + 1) % MODULO:
            if self.state is State.SYN_SENT:
                self._refuse(acknowledgement)
            return False
        if self.state is State.SYN_SENT:
            if not flags & SYN:
                return False
            self._expected = (sequence + 1) % MODULO
            self._read_options(options)
            self._ack_is_due = True
        self._oldest = self._next = self._newest = acknowledgement
        self._peer_window = window if flags & SYN else window << self._peer_scale
        self._syn_is_due = False
        self._timeouts = 0
        self.state = State.ESTABLISHED
        self._builder.prepare()
        self.stack.activate(self)
        self.accept(self)
        self.on_connected(self)
        return not flags & SYN

    def _refuse(self, sequence: int) -> None:
        """Tell the peer that the connection it still knows is no more (RFC 9293, 3.10.7.3); ours is asked for again."""
        self._builder.prepare()
        self._emit_at_once(sequence, RST)

    def _read_options(self, options: bytes) -> None:
        at = 0
        scale: int | None = None
        while at < len(options) and options[at]:
            if options[at] == 1:
                at += 1
                continue
            length = options[at + 1] if at + 1 < len(options) else 0
            if length < 2 or at + length > len(options):
                break
            if options[at] == 2 and length == 4:
                self.mss = max(min(self.mss, int.from_bytes(options[at + 2 : at + 4], "big")), 64)
            elif options[at] == 3 and length == 3:
                scale = min(options[at + 2], 14)
            at += length
        # Windows are scaled only if both ends said so, and the other end's SYN comes first or answers ours.
        self._peer_scale, self._our_scale = (0, 0) if scale is None else (scale, WINDOW_SCALE)

    def _take(self, payload: bytes, flags: int) -> None:
        fits = BUFFER_BYTES - len(self._received)
        whole = len(payload) <= fits
        payload = payload if whole else payload[: max(fits, 0)]
        if not self._end_of_stream and payload:
            self._received += payload
            self._expected = (self._expected + len(payload)) % MODULO
        if flags & FIN and whole and not self._end_of_stream:
            self._end_of_stream = True
            self._expected = (self._expected + 1) % MODULO
        self._ask_again()
        self.on_readable(self)
        if self._end_of_stream and self._fin_is_acknowledged:
            self._emit_at_once(self._next, ACK)
            self.end()

    def _ask_again(self) -> None:
        self._ack_is_due = True
        self.stack.activate(self)

    # What is sent asks

    def _window(self) -> int:
        free = max(BUFFER_BYTES - len(self._received), 0)
        self._promised = self._expected + free
        return min(free >> self._our_scale, 0xFFFF)

    def _has_room(self) -> None:
        self.on_writable(self)
