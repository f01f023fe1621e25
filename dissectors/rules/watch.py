"""What rules know about the record before them, worked out once for all rules."""

from __future__ import annotations

from dissectors.engine import Decoded, Session
from dissectors.engine.dialects.control import message_type, parse_body
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.control_values import MessageType
from vmbus.wire.schema import Format

SECOND = 1_000_000_000
STUCK = 5 * SECOND
"""Nanoseconds after which a wait is called one: an idle, healthy peer answers within milliseconds."""

GUEST, HOST = int(Direction.GUEST_TO_HOST), int(Direction.HOST_TO_GUEST)


class Watch:
    """The current record's kind and control message, and the session's state after it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.now = 0
        """The time of the last record, in nanoseconds."""
        self.message = MessageType(0)
        """The type of the control message that the record is; 0 for any other record."""
        self.body: Format | None = None
        """Its body."""
        self.saw_start = False
        """Whether the capture tells of the connection from its very beginning."""
        self.lost = 0
        """Records that are missing so far: what was in them nobody knows."""
        self.is_packet = self.is_signal = self.from_guest = self.from_host = False

    def take(self, item: Decoded) -> None:
        """Work out what the rules will ask about ``item``."""
        self.now = max(self.now, item.time_ns)
        self.lost += item.lost
        is_control = item.kind == RecordKind.MESSAGE and item.protocol == "control"
        self.message = MessageType(message_type(item)) if is_control else MessageType(0)
        self.body = parse_body(item) if is_control else None
        self.is_packet = item.kind == RecordKind.PACKET
        self.is_signal = item.kind == RecordKind.SIGNAL
        self.from_guest, self.from_host = item.direction == GUEST, item.direction == HOST
        if self.message == MessageType.INITIATE_CONTACT and not item.is_snapshot:
            self.saw_start = True

    @staticmethod
    def name(item: Decoded) -> str:
        """The channel of a record, for a sentence."""
        return f"channel {item.channel_name}" if item.channel_id else "the control plane"
