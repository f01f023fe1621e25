"""One record of a capture as the engine understands it: where it belongs, what it answers, and what it says.

Feeding a record to a session costs little: the header and the packet descriptor are read, requests are paired with what
answers them.  The summary line and the tree are made when they are asked for, from what was known at that point.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dissectors.engine.inside import INSIDE
from dissectors.engine.layers import Layer, build_tree
from vmbus.wire.capture import Direction, RecordFlags, RecordKind
from vmbus.wire.ring import PacketType
from vmbus.wire.schema import Buffer, WireError
from vmbus.wire.tree import Node

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife
    from dissectors.engine.dialect import Dialect

_SPOKEN = frozenset({int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)})
_SNAPSHOT = int(RecordFlags.SNAPSHOT)
_WORD = struct.Struct("<I")
_ARROWS: dict[int, str] = {Direction.GUEST_TO_HOST: "->", Direction.HOST_TO_GUEST: "<-"}


class Decoded:
    """A record in its place.  Only ``Session.feed`` makes one."""

    __slots__ = (
        "body_at",
        "channel",
        "channel_id",
        "completes_twice",
        "data",
        "dialect",
        "direction",
        "flags",
        "kind",
        "lost",
        "notes",
        "number",
        "packet_type",
        "payload_at",
        "request",
        "response",
        "time_ns",
        "transaction_id",
        "wants_completion",
    )

    def __init__(self, number: int, time_ns: int, data: Buffer, dialect: Dialect) -> None:
        self.number = number
        """Place in the capture, from 1."""
        self.time_ns = time_ns
        """Nanoseconds since the epoch."""
        self.data = data
        """The whole record, its pseudo-header included."""
        self.dialect = dialect
        self.kind = 0
        self.direction = 0
        self.flags = 0
        self.channel_id = 0
        self.channel: ChannelLife | None = None
        """The life of the channel it belongs to; None for the control plane."""
        self.body_at = len(data)
        """Where the body starts in ``data``."""
        self.packet_type = 0
        self.payload_at = self.body_at
        """Of a ring packet: where the payload starts in ``data``."""
        self.transaction_id = 0
        self.wants_completion = False
        self.request: Decoded | None = None
        """What this completes, or what external data or a crash dump's bytes belong to."""
        self.response: Decoded | None = None
        """The completion of this request, once it came."""
        self.completes_twice = False
        self.lost = 0
        """Records that were lost just before this one."""
        self.notes: list[str] = []
        """What is odd about the record as a whole, one line each."""

    @property
    def latency_ns(self) -> int | None:
        """Of a request and of its completion: the time between the two."""
        if self.response is not None:
            return self.response.time_ns - self.time_ns
        if self.request is not None and self.packet_type == PacketType.COMPLETION:
            return self.time_ns - self.request.time_ns
        return None

    @property
    def volume(self) -> int:
        """Bytes that crossed: of a message or packet, its own; of external data, all of the packet's with its start."""
        if self.kind == RecordKind.EXTERNAL:
            return 0 if self.data_offset else self.data_total
        return len(self.data) - self.body_at

    @property
    def data_total(self) -> int:
        """Of data outside the ring: the bytes of all of it that its packet points at; 0 of any other record."""
        return int(_WORD.unpack_from(self.data, 24)[0]) if self.kind == RecordKind.EXTERNAL else 0

    @property
    def data_offset(self) -> int:
        """Of data outside the ring: where in all of it that of this record begins."""
        return int(_WORD.unpack_from(self.data, 28)[0]) if self.kind == RecordKind.EXTERNAL else 0

    @property
    def is_snapshot(self) -> bool:
        """Whether it only repeats what led to the state in which the capture starts."""
        return bool(self.flags & _SNAPSHOT) and self.kind != 0

    @property
    def arrow(self) -> str:
        """``->`` from the guest to the host, ``<-`` to the guest, ``--`` for what has no direction."""
        return _ARROWS.get(self.direction, "--")

    @property
    def kind_name(self) -> str:
        return str(RecordKind(self.kind)).lower() if self.kind else "none"

    @property
    def protocol(self) -> str:
        """What the channel speaks, ``control``, ``vstor``, ``nvsp`` ...; of records that say nothing, their kind."""
        return self.dialect.name if self.kind in _SPOKEN or not self.kind else self.kind_name

    @property
    def channel_name(self) -> str:
        """``3 scsi``; empty for the control plane."""
        if not self.channel_id:
            return ""
        return f"{self.channel_id} {self.channel.name}" if self.channel is not None else str(self.channel_id)

    @property
    def summary(self) -> str:
        """One line that says what the record is."""
        return self.dialect.summary(self)

    @property
    def layers(self) -> list[Layer]:
        """What lies where in ``data``."""
        return self.dialect.layers(self)

    @property
    def tree(self) -> Node:
        """Every field with its value and its bytes."""
        return build_tree(self.data, self.layers, INSIDE)

    @property
    def is_cut(self) -> bool:
        """Whether the snap length cut external data short."""
        return self.dialect.is_cut(self)

    @property
    def is_partial(self) -> bool:
        """Whether only a part of all the data is here, so that what is missing is no one's fault."""
        return self.dialect.is_partial(self)

    @property
    def problems(self) -> list[str]:
        """The notes, and what is wrong with the fields."""
        if self.is_partial or self._is_sound():
            return self.notes
        return self.notes + self.tree.problems()

    def _is_sound(self) -> bool:
        """Whether the codec takes every layer: much quicker than a tree that says what is wrong where."""
        try:
            for layer in self.layers:
                if layer.format is not None:
                    layer.format.parse(self.data, layer.start, layer.stop)
        except WireError:
            return False
        return True
