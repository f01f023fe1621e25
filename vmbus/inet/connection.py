"""One TCP connection: the state machine, the two buffers, and the segments that come of them.

A user writes with :meth:`TcpConnection.write` (as much as there is room for), reads what has arrived with
:meth:`TcpConnection.read`, and closes its half with :meth:`TcpConnection.close`. What is not read keeps the window
small.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from vmbus.inet.frame import HEADERS_SIZE, OutgoingFrame
from vmbus.inet.segment import SegmentBuilder
from vmbus.wire.inet import TcpFlags

if TYPE_CHECKING:
    from vmbus.inet.tcp import TcpStack

_FIN, _SYN, _RST, _PSH, _ACK = (
    int(TcpFlags.FIN), int(TcpFlags.SYN), int(TcpFlags.RST), int(TcpFlags.PSH), int(TcpFlags.ACK)
)  # fmt: skip
_MODULO: Final = 1 << 32
_HALF: Final = 1 << 31
WINDOW_SCALE: Final = 7
BUFFER_BYTES: Final = 1 << 20
"""What a connection holds at most each way; also its window."""

FIRST_TIMEOUT: Final = 0.3
MOST_TIMEOUTS: Final = 8
"""Timeouts without an acknowledgement, each twice as long as the last, before a connection is given up."""


class State(Enum):
    """RFC 9293, 3.3.2. A connection that would linger in TIME-WAIT is forgotten at once: nothing is delayed here."""

    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    CLOSED = "CLOSED"


def _nothing(connection: TcpConnection) -> None:
    """What happens where the user has no handler."""


class TcpConnection:
    """A connection. ``on_connected``, ``on_readable``, ``on_writable`` and ``on_closed`` are called with it."""

    def __init__(self, stack: TcpStack, address: bytes, port: int, local_port: int, state: State) -> None:
        self.stack = stack
        self.key = (address, port, local_port)
        self.state = state
        self.error: str | None = None
        self.accept: Callable[[TcpConnection], object] = _nothing
        self.on_connected: Callable[[TcpConnection], object] = _nothing
        self.on_readable: Callable[[TcpConnection], object] = _nothing
        self.on_writable: Callable[[TcpConnection], object] = _nothing
        self.on_closed: Callable[[TcpConnection], object] = _nothing
        self.retransmits = 0
        self.mss = stack.host.mtu - HEADERS_SIZE
        self._send_buffer = bytearray()
        """Bytes from the oldest unacknowledged one on."""
        self._received = bytearray()
        self._oldest = int.from_bytes(os.urandom(4), "big")
        """The oldest sequence number that is not acknowledged (SND.UNA)."""
        self._next = self._oldest
        """The next one to send (SND.NXT)."""
        self._newest = self._oldest
        """The highest that was ever sent: further on than ``_next`` after a timeout."""
        self._expected = 0
        """The next one to receive (RCV.NXT)."""
        self._promised = 0
        """The end of the window that the peer knows of."""
        self._peer_window = 0
        self._peer_scale = self._our_scale = 0
        self._closing = False
        self._fin_sent_at: int | None = None
        self._end_of_stream = False
        self._ack_is_due = False
        self._syn_is_due = True
        self._duplicates = 0
        self._timeouts = 0
        self._progress = time.monotonic()
        self._builder = SegmentBuilder(stack.host, *self.key)

    # What a user calls

    @property
    def is_established(self) -> bool:
        return self.state is State.ESTABLISHED

    @property
    def is_over(self) -> bool:
        """Whether both halves are closed, or it failed (``error``)."""
        return self.state is State.CLOSED

    @property
    def available(self) -> int:
        """Bytes that can be read."""
        return len(self._received)

    @property
    def at_end(self) -> bool:
        """Whether everything was read and the peer sends no more."""
        return not self._received and (self._end_of_stream or self.is_over)

    @property
    def room(self) -> int:
        """Bytes that can be written now."""
        return 0 if self._closing or self.is_over else max(BUFFER_BYTES - len(self._send_buffer), 0)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Queue as much of ``data`` as there is room for; return how much."""
        taken = min(self.room, len(data))
        if taken:
            self._send_buffer += data[:taken]
            self.stack.activate(self)
        return taken

    def read(self, most: int = BUFFER_BYTES) -> bytes:
        """Take up to ``most`` received bytes."""
        data = bytes(self._received[:most])
        self.skip(len(data))
        return data

    def skip(self, count: int) -> None:
        """Drop received bytes without looking at them."""
        del self._received[:count]
        grown = (self._expected + BUFFER_BYTES - len(self._received) - self._promised) % _MODULO
        if self.is_established and BUFFER_BYTES // 2 <= grown < _HALF:
            self._ack_is_due = True
            self.stack.activate(self)

    def close(self) -> None:
        """Send no more: the peer gets what was written, and then the end of the stream."""
        if not self._closing:
            self._closing = True
            self.stack.activate(self)

    def abort(self) -> None:
        """Break the connection off."""
        if not self.is_over:
            out: deque[OutgoingFrame] = deque()
            self._emit(out, self._next, _RST | _ACK, b"")
            for frame in out:
                self.stack.host.push(frame)
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
        if flags & _RST:
            if sequence == self._expected:
                self.end("reset by the peer")
            return
        if flags & _SYN:
            self._ask_again()  # its handshake's last acknowledgement was lost
            return
        ahead = (sequence - self._expected) % _MODULO
        if ahead:
            if ahead < _HALF:
                self._ask_again()
                return
            known = _MODULO - ahead
            if known >= len(payload) + (flags & _FIN) and (payload or flags & _FIN):
                self._ask_again()
                payload, flags = b"", flags & ~_FIN
            else:
                payload = payload[known:]
        if flags & _ACK:
            self._acknowledged(acknowledgement, window << self._peer_scale, bool(payload))
            if self.is_over:
                return
        if payload or flags & _FIN:
            self._take(payload, flags)

    def _handshake(self, sequence: int, acknowledgement: int, flags: int, window: int, options: bytes) -> bool:
        """Handle a segment before the connection stands; return whether there may be data in it."""
        if self.state is State.SYN_RECEIVED and flags & (_SYN | _RST) == _SYN and not flags & _ACK:
            self._expected = (sequence + 1) % _MODULO
            self._read_options(options)
            self._peer_window = window
            self._next = self._oldest
            self._syn_is_due = True
            self.stack.activate(self)
            return False
        if flags & _RST:
            if self.state is State.SYN_RECEIVED or acknowledgement == (self._oldest + 1) % _MODULO:
                self.end("refused by the peer")
            return False
        if not flags & _ACK:
            return False
        if acknowledgement != (self._oldest + 1) % _MODULO:
            if self.state is State.SYN_SENT:
                self._refuse(acknowledgement)
            return False
        if self.state is State.SYN_SENT:
            if not flags & _SYN:
                return False
            self._expected = (sequence + 1) % _MODULO
            self._read_options(options)
            self._ack_is_due = True
        self._oldest = self._next = self._newest = acknowledgement
        self._peer_window = window if flags & _SYN else window << self._peer_scale
        self._syn_is_due = False
        self._timeouts = 0
        self.state = State.ESTABLISHED
        self._builder.prepare()
        self.stack.activate(self)
        self.accept(self)
        self.on_connected(self)
        return not flags & _SYN

    def _refuse(self, sequence: int) -> None:
        """Tell the peer that the connection it still knows is no more (RFC 9293, 3.10.7.3); ours is asked for again."""
        out: deque[OutgoingFrame] = deque()
        self._builder.prepare()
        self._emit(out, sequence, _RST, b"")
        self.stack.host.push(out[0])

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

    def _acknowledged(self, acknowledgement: int, window: int, has_payload: bool) -> None:
        progress = (acknowledgement - self._oldest) % _MODULO
        outstanding = (self._newest - self._oldest) % _MODULO
        if progress > outstanding:
            return
        opened = window > self._peer_window
        if progress:
            fin = self._fin_sent_at
            del self._send_buffer[:progress]
            self._oldest = acknowledgement
            if (self._next - acknowledgement) % _MODULO >= _HALF:
                self._next = acknowledgement
            self._duplicates = self._timeouts = 0
            self._progress = time.monotonic()
            self._peer_window = window
            if fin is not None and acknowledgement == (fin + 1) % _MODULO:
                if self._end_of_stream:
                    self.end()
                return
            if not self._closing and self.room >= BUFFER_BYTES // 2:
                self.on_writable(self)
        elif outstanding and not has_payload and window == self._peer_window:
            self._duplicates += 1
            if self._duplicates == 3:
                self._go_back()
        self._peer_window = window
        if opened or progress:
            self.stack.activate(self)

    def _take(self, payload: bytes, flags: int) -> None:
        fits = BUFFER_BYTES - len(self._received)
        whole = len(payload) <= fits
        payload = payload if whole else payload[: max(fits, 0)]
        if not self._end_of_stream and payload:
            self._received += payload
            self._expected = (self._expected + len(payload)) % _MODULO
        if flags & _FIN and whole and not self._end_of_stream:
            self._end_of_stream = True
            self._expected = (self._expected + 1) % _MODULO
        self._ask_again()
        self.on_readable(self)
        fin = self._fin_sent_at
        if self._end_of_stream and fin is not None and self._oldest == (fin + 1) % _MODULO:
            out: deque[OutgoingFrame] = deque()
            self._emit(out, self._next, _ACK, b"")
            self.stack.host.push(out[0])
            self.end()

    def _ask_again(self) -> None:
        self._ack_is_due = True
        self.stack.activate(self)

    # Sending

    def produce(self, out: deque[OutgoingFrame], most: int) -> bool:
        """Put up to ``most`` segments into ``out``; return whether there is more to send at once."""
        if self.state is not State.ESTABLISHED:
            if not self.is_over and self._syn_is_due and self.key[0] in self.stack.host.neighbours:
                self._emit_syn(out)
            return False
        fin = self._fin_sent_at
        is_all_sent = fin is not None and self._next == (fin + 1) % _MODULO
        if not is_all_sent and self._produce_data(out, most):
            return True
        if self._ack_is_due:
            self._emit(out, self._next, _ACK, b"")
        return False

    def _produce_data(self, out: deque[OutgoingFrame], most: int) -> bool:
        buffer = self._send_buffer
        largest = max(self.mss, self.stack.host.largest_segment // self.mss * self.mss)
        sent = (self._next - self._oldest) % _MODULO
        limit = min(len(buffer), self._peer_window)
        while sent < limit and most > 0:
            size = min(limit - sent, largest)
            payload = bytes(buffer[sent : sent + size])
            last = sent + size == len(buffer)
            self._emit(out, self._next, _ACK | _PSH if last else _ACK, payload)
            sent += size
            self._next = (self._next + size) % _MODULO
            most -= 1
        if sent < limit:
            self._note_sent()
            return True
        if self._closing and sent == len(buffer):
            self._fin_sent_at = self._next
            self._emit(out, self._next, _ACK | _FIN, b"")
            self._next = (self._next + 1) % _MODULO
        self._note_sent()
        return False

    def _note_sent(self) -> None:
        if (self._next - self._newest) % _MODULO < _HALF:
            self._newest = self._next

    def _go_back(self) -> None:
        """Send again from the oldest unacknowledged byte on."""
        self.retransmits += 1
        self._next = self._oldest
        self._fin_sent_at = None
        self.stack.activate(self)

    @property
    def needs_timer(self) -> bool:
        """Whether something was sent that is not acknowledged, or waits for the peer's window."""
        return not self.is_over and (self._newest != self._oldest or bool(self._send_buffer) or self._syn_is_due)

    def tick(self, now: float) -> None:
        """Look at the clock: send again, probe a closed window, or give up."""
        if now - self._progress < FIRST_TIMEOUT * (1 << self._timeouts):
            return
        self._timeouts += 1
        self._progress = now
        if self._timeouts > MOST_TIMEOUTS:
            self.end("the peer does not answer")
        elif self.state is not State.ESTABLISHED:
            if self.key[0] not in self.stack.host.neighbours:
                self.stack.host.ask_for(self.key[0])
            self.stack.activate(self)
        elif self._peer_window == 0 and self._send_buffer:
            self._peer_window = 1  # one byte past the window: its answer says what the window is now
            self._go_back()
        else:
            self._go_back()

    def _window(self) -> int:
        free = max(BUFFER_BYTES - len(self._received), 0)
        self._promised = self._expected + free
        return min(free >> self._our_scale, 0xFFFF)

    def _emit_syn(self, out: deque[OutgoingFrame]) -> None:
        host = self.stack.host
        self._builder.prepare()
        options = b"\x02\x04" + (host.mtu - HEADERS_SIZE).to_bytes(2, "big")
        if self.state is State.SYN_SENT or self._our_scale:
            options += b"\x01\x03\x03" + bytes((WINDOW_SCALE,))
        answer = self.state is State.SYN_RECEIVED
        scale, self._our_scale = self._our_scale, 0
        self._emit(out, self._oldest, _SYN | (_ACK if answer else 0), b"", options)
        self._our_scale = scale
        self._next = self._newest = (self._oldest + 1) % _MODULO

    def _emit(self, out: deque[OutgoingFrame], sequence: int, flags: int, payload: bytes, options: bytes = b"") -> None:
        acknowledgement = self._expected if flags & _ACK else 0
        out.append(self._builder.build(sequence, acknowledgement, flags, self._window(), payload, options, self.mss))
        self._ack_is_due = False
