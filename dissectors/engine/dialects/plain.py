"""Channels of which ``vmbus.wire.protocols`` says all there is to know: a root format each way, in pipes or not."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.layers import Layer
from vmbus.wire.capture import Direction
from vmbus.wire.enums import OpenEnum
from vmbus.wire.pipe import PIPE_BODIES
from vmbus.wire.protocols import Framing, Protocol
from vmbus.wire.ring import PipeHeader
from vmbus.wire.schema import Format, Kind, WireError

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife
    from dissectors.engine.decoded import Decoded

RING_PADDING = 7
"""Bytes at most that fill a packet up to a multiple of 8."""
_HEADER = struct.Struct("<II")


class Plain(Dialect):
    """One protocol of the table."""

    def __init__(self, channel: ChannelLife, protocol: Protocol) -> None:
        super().__init__(channel)
        self.protocol = protocol
        self.name = protocol.abbreviation

    def payload_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        found: list[Layer] = []
        end, kind = stop, 0
        if self.protocol.is_pipe:
            found.append(Layer(PipeHeader, start, stop))
            if stop - start < PipeHeader.SIZE:
                return found
            start += PipeHeader.SIZE
            kind, length = _HEADER.unpack_from(item.data, start - PipeHeader.SIZE)
            end = min(start + length, stop)
        fmt = PIPE_BODIES.get(kind) or self._root(item, start, end)
        if fmt is None:
            found.append(Layer(None, start, end, "payload"))
        else:
            found.append(Layer(fmt, start, end))
            end = _end_of(fmt, item, start, end)
        if end < stop:
            found.append(Layer(None, end, stop, "padding" if stop - end <= RING_PADDING else "unknown"))
        return found

    def _root(self, item: Decoded, start: int, stop: int) -> type[Format] | None:
        if item.packet_type == COMPLETION:
            asked = None if item.request is None else bytes(item.request.data[item.request.payload_at :])
            return self.protocol.completion_format(asked, bytes(item.data[start:stop]))
        to_host = item.direction == Direction.GUEST_TO_HOST
        return self.protocol.guest_to_host if to_host else self.protocol.host_to_guest

    def packet_summary(self, item: Decoded) -> str:
        body = [layer for layer in self.payload_layers(item, item.payload_at, len(item.data)) if layer.format]
        if not body or body[-1].format is PipeHeader:
            return super().packet_summary(item)
        fmt, start, stop = body[-1][:3]
        assert fmt is not None
        if self.protocol.framing is Framing.STREAM:
            return f"{stop - start} bytes of the stream" if stop > start else "end of the stream"
        try:
            words = list(_words(fmt.parse(item.data, start, stop)))
        except WireError:
            words = []
        if item.packet_type == COMPLETION and item.request is not None:
            words.append(f"for {self.packet_summary(item.request)}")
        return " ".join(words) or f"{fmt.__name__}, {stop - start} bytes"


def _end_of(fmt: type[Format], item: Decoded, start: int, stop: int) -> int:
    try:
        return fmt.parse_prefix(item.data, start, stop)[1]
    except WireError:
        return stop


def _words(value: Format, depth: int = 0) -> list[str]:
    """The names of the first enumerations of a message and of its body: what kind of message it is."""
    found: list[str] = []
    for field in value.FIELDS:
        if not field.is_stored:
            continue
        inner = getattr(value, field.name)
        if isinstance(inner, OpenEnum) and (depth == 0 or len(found) < 1) and inner.is_known and _tells(field.name):
            found.append(str(inner))
        elif isinstance(inner, Format) and depth < 2 and field.kind is Kind.VARIANT:
            found += _words(inner, depth + 1) or [type(inner).__name__]
    return found


def _tells(name: str) -> bool:
    return "type" in name or "operation" in name or "status" in name or name.endswith("_id") or name == "message"
