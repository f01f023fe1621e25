"""The sending half of a TCP connection: what was written, and the segments that come of it until they are acknowledged.

What is not acknowledged in time, or is asked for by three acknowledgements of the same byte, is sent again from the
oldest byte on. :class:`~vmbus.inet.connection.TcpConnection` adds the handshake, what is received, and the end.
"""

from __future__ import annotations

import os
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from vmbus.inet.frame import HEADERS_SIZE, OutgoingFrame
from vmbus.inet.segment import SegmentBuilder
from vmbus.wire.inet import TcpFlags

if TYPE_CHECKING:
    from vmbus.inet.tcp import TcpStack

FIN, SYN, RST, PSH, ACK = (
    int(TcpFlags.FIN), int(TcpFlags.SYN), int(TcpFlags.RST), int(TcpFlags.PSH), int(TcpFlags.ACK)
)  # fmt: skip
MODULO: Final = 1 << 32
"""Of sequence numbers."""

HALF: Final = 1 << 31
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


def nothing(connection: SendingConnection) -> None:
    """What happens where the user has no handler."""


class SendingConnection:
    """What a connection sends."""

    def __init__(self, stack: TcpStack, address: bytes, port: int, local_port: int, state: State) -> None:
        self.stack = stack
        self.key = (address, port, local_port)
        self.state = state
        self.retransmits = 0
        self.mss = stack.host.mtu - HEADERS_SIZE
        self._send_buffer = bytearray()
        """Bytes from the oldest unacknowledged one on."""
        self._oldest = int.from_bytes(os.urandom(4), "big")
        """The oldest sequence number that is not acknowledged (SND.UNA)."""
        self._next = self._oldest
        """The next one to send (SND.NXT)."""
        self._newest = self._oldest
        """The highest that was ever sent: further on than ``_next`` after a timeout."""
        self._expected = 0
        """The next one to receive (RCV.NXT), which every segment acknowledges."""
        self._peer_window = 0
        self._peer_scale = self._our_scale = 0
        self._closing = False
        self._fin_sent_at: int | None = None
        self._ack_is_due = False
        self._syn_is_due = True
        self._duplicates = 0
        self._timeouts = 0
        self._progress = time.monotonic()
        self._builder = SegmentBuilder(stack.host, *self.key)

    @property
    def is_over(self) -> bool:
        """Whether both halves are closed, or it failed (``error``)."""
        return self.state is State.CLOSED

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

    def close(self) -> None:
        """Send no more: the peer gets what was written, and then the end of the stream."""
        if not self._closing:
            self._closing = True
            self.stack.activate(self)

    def end(self, error: str | None = None) -> None:
        """It is over; ``error`` says why if it did not end as it should."""
        raise NotImplementedError

    def _window(self) -> int:
        """What we tell the peer that it may send."""
        raise NotImplementedError

    def _has_room(self) -> None:
        """Much can be written again."""
        raise NotImplementedError

    # What the peer says

    def _acknowledged(self, acknowledgement: int, window: int, has_payload: bool) -> None:
        progress = (acknowledgement - self._oldest) % MODULO
        outstanding = (self._newest - self._oldest) % MODULO
        if progress > outstanding:
            return
        opened = window > self._peer_window
        if progress:
            del self._send_buffer[:progress]
            self._oldest = acknowledgement
            if (self._next - acknowledgement) % MODULO >= HALF:
                self._next = acknowledgement
            self._duplicates = self._timeouts = 0
            self._progress = time.monotonic()
            self._peer_window = window
            if self._fin_is_acknowledged:
                return
            if not self._closing and self.room >= BUFFER_BYTES // 2:
                self._has_room()
        elif outstanding and not has_payload and window == self._peer_window:
            self._duplicates += 1
            if self._duplicates == 3:
                self._go_back()
        self._peer_window = window
        if opened or progress:
            self.stack.activate(self)

    @property
    def _fin_is_acknowledged(self) -> bool:
        """Whether the peer has everything, the end of the stream too."""
        return self._fin_sent_at is not None and self._oldest == (self._fin_sent_at + 1) % MODULO

    # Segments

    def produce(self, out: deque[OutgoingFrame], most: int) -> bool:
        """Put up to ``most`` segments into ``out``; return whether there is more to send at once."""
        if self.state is not State.ESTABLISHED:
            if not self.is_over and self._syn_is_due and self.key[0] in self.stack.host.neighbours:
                self._emit_syn(out)
            return False
        fin = self._fin_sent_at
        is_all_sent = fin is not None and self._next == (fin + 1) % MODULO
        if not is_all_sent and self._produce_data(out, most):
            return True
        if self._ack_is_due:
            self._emit(out, self._next, ACK, b"")
        return False

    def _produce_data(self, out: deque[OutgoingFrame], most: int) -> bool:
        buffer = self._send_buffer
        largest = max(self.mss, self.stack.host.largest_segment // self.mss * self.mss)
        sent = (self._next - self._oldest) % MODULO
        limit = min(len(buffer), self._peer_window)
        while sent < limit and most > 0:
            size = min(limit - sent, largest)
            payload = bytes(buffer[sent : sent + size])
            last = sent + size == len(buffer)
            self._emit(out, self._next, ACK | PSH if last else ACK, payload)
            sent += size
            self._next = (self._next + size) % MODULO
            most -= 1
        if sent < limit:
            self._note_sent()
            return True
        if self._closing and sent == len(buffer):
            self._fin_sent_at = self._next
            self._emit(out, self._next, ACK | FIN, b"")
            self._next = (self._next + 1) % MODULO
        self._note_sent()
        return False

    def _note_sent(self) -> None:
        if (self._next - self._newest) % MODULO < HALF:
            self._newest = self._next

    def _emit_syn(self, out: deque[OutgoingFrame]) -> None:
        host = self.stack.host
        self._builder.prepare()
        options = b"\x02\x04" + (host.mtu - HEADERS_SIZE).to_bytes(2, "big")
        if self.state is State.SYN_SENT or self._our_scale:
            options += b"\x01\x03\x03" + bytes((WINDOW_SCALE,))
        answer = self.state is State.SYN_RECEIVED
        scale, self._our_scale = self._our_scale, 0
        self._emit(out, self._oldest, SYN | (ACK if answer else 0), b"", options)
        self._our_scale = scale
        self._next = self._newest = (self._oldest + 1) % MODULO

    def _emit(self, out: deque[OutgoingFrame], sequence: int, flags: int, payload: bytes, options: bytes = b"") -> None:
        acknowledgement = self._expected if flags & ACK else 0
        out.append(self._builder.build(sequence, acknowledgement, flags, self._window(), payload, options, self.mss))
        self._ack_is_due = False

    def _emit_at_once(self, sequence: int, flags: int) -> None:
        """A segment without data, not after those of other connections."""
        out: deque[OutgoingFrame] = deque()
        self._emit(out, sequence, flags, b"")
        self.stack.host.push(out[0])

    # Again

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
        else:
            if self._peer_window == 0 and self._send_buffer:
                self._peer_window = 1  # one byte past the window: its answer says what the window is now
            self._go_back()
